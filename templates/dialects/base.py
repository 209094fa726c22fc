"""What a tool-call dialect is: one family's way to show tools, write calls and read them back."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, cast

from templates.conversation import Tool, ToolCall
from templates.dialects import constraints
from templates.dialects.constraints import Layout
from templates.dialects.scanning import PassThrough
from templates.format import FormatError, OutputConstraint, OutputParser, ToolChoice


class Dialect(ABC):
    """Stateless; parsers hold the state of one output."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    def keeps_special_tokens(self) -> bool:
        """True where the marks of a call are special tokens, so the text must show them."""
        return False

    @property
    def reads_reasoning(self) -> bool:
        """True where the parser itself tells reasoning from content (channels)."""
        return False

    @abstractmethod
    def tool_text(self, tools: tuple[Tool, ...], *, wrapped: bool = False) -> str:
        """The tools as the system prompt shows them. `wrapped`: the tools came as
        `{"type": "function", "function": ...}`, which one dialect shows as it came."""

    @abstractmethod
    def call_text(self, calls: tuple[ToolCall, ...]) -> str:
        """The calls of one assistant message. Raises FormatError where the dialect cannot."""

    def native_text(self, calls: tuple[ToolCall, ...]) -> str:
        """The calls as the model itself writes them, where `call_text` (LLaMA-Factory's) leaves
        marks out; this is what grammars hold the output to."""
        return self.call_text(calls)

    def result_text(self, result: str, call: ToolCall | None = None) -> str:
        """A tool's result as it stands in its message; most templates wrap it themselves."""
        return result

    @abstractmethod
    def call_parser(self, tools: tuple[Tool, ...]) -> OutputParser: ...

    def parser(self, tools: tuple[Tool, ...]) -> OutputParser:
        """Reads one output. Without tools every text is content."""
        return self.call_parser(tools) if tools else PassThrough()

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """How calls stand in the output, for grammars."""

    def constrain(
        self, tools: tuple[Tool, ...], choice: ToolChoice, schema: dict[str, Any] | None
    ) -> OutputConstraint | None:
        """The grammar that enforces `choice` and strict tools, and binds plain content to
        `schema`; None when nothing is to be enforced. Raises FormatError where it cannot."""
        return constraints.constrain(self.layout, tools, choice, schema)


def declaration(tool: Tool) -> dict[str, Any]:
    """The tool as a function object, absent fields left out."""
    shown: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        shown["description"] = tool.description
    if tool.parameters is not None:
        shown["parameters"] = tool.parameters
    return shown


def wrapped_declaration(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "function": declaration(tool)}


def to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """The call's arguments as an object; an empty text is no arguments."""
    try:
        value = json.loads(call.arguments or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise FormatError(
            f"The arguments of the call to '{call.name}' are not a JSON object.", "messages"
        )
    return cast(dict[str, Any], value)
