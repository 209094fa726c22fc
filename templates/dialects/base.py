"""What a tool-call dialect is: one family's way to show tools, write calls and read them back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from templates.conversation import Tool, ToolCall
from templates.dialects import constraints
from templates.dialects.constraints import Layout
from templates.dialects.reading import whole_text
from templates.dialects.scanning import PassThrough
from templates.format import FormatError, OutputConstraint, OutputParser, ToolChoice

Tools = tuple[Tool, ...]

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
MAX_ARGUMENTS_DEPTH = 100
"""Of the calls in a history; writing and reading them takes stack for each level."""


class Call(NamedTuple):
    """A call about to be written."""

    name: str
    arguments: dict[str, Any]
    id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Stateless; parsers hold the state of one output."""

    name: str
    show_tools: Callable[[Tools], str]
    write_calls: Callable[[list[Call]], str]
    read: Callable[[Tools], OutputParser]
    layout: Layout
    """How calls stand in the output, for grammars."""
    keeps_special_tokens: bool = False
    """True where the marks of a call are special tokens, so the text must show them."""
    reads_reasoning: bool = False
    """True where the parser itself tells reasoning from content (channels)."""
    reads_marks: bool = False
    """True where plain answers stand between marks, which the parser takes away."""
    show_wrapped: Callable[[Tools], str] | None = None
    write_natively: Callable[[list[Call]], str] | None = None

    def tool_text(self, tools: Tools, *, wrapped: bool = False) -> str:
        """The tools as the system prompt shows them. `wrapped`: the tools came as
        `{"type": "function", "function": ...}`, which one dialect shows as it came."""
        show = self.show_wrapped if wrapped and self.show_wrapped else self.show_tools
        return show(tools)

    def call_text(self, calls: tuple[ToolCall, ...]) -> str:
        """The calls of one assistant message. Raises FormatError where the dialect cannot."""
        return self.write_calls(self._checked(calls))

    def native_text(self, calls: tuple[ToolCall, ...]) -> str:
        """The calls as the model itself writes them, where `call_text` (LLaMA-Factory's) leaves
        marks out; this is what grammars hold the output to."""
        return (self.write_natively or self.write_calls)(self._checked(calls))

    def parser(self, tools: Tools) -> OutputParser:
        """Reads one output. Without tools every text is content (channels are still read)."""
        always = self.reads_reasoning or self.reads_marks
        return self.read(tools) if tools or always else PassThrough()

    def constrain(
        self, tools: Tools, choice: ToolChoice, schema: dict[str, Any] | None
    ) -> OutputConstraint | None:
        """The grammar that enforces `choice` and strict tools, and binds plain content to
        `schema`; None when nothing is to be enforced. Raises FormatError where it cannot."""
        return constraints.constrain(self.layout, tools, choice, schema)

    def bind_content(self, constraint: OutputConstraint) -> OutputConstraint:
        """`constraint` for the plain content of an output. Raises FormatError."""
        return constraints.bind_content(self.layout, constraint)

    def _checked(self, calls: tuple[ToolCall, ...]) -> list[Call]:
        if len(calls) > 1 and not self.layout.parallel:
            raise FormatError(
                f"The '{self.name}' dialect takes one call in a message, not {len(calls)}.",
                "messages",
            )
        return [Call(call.name, arguments_of(call), call.id) for call in calls]


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


def wrapped_list(tools: Tools) -> str:
    """The tools as one JSON list, as they come in a request."""
    return to_json([wrapped_declaration(tool) for tool in tools])


def to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def as_text(value: Any) -> str:
    """An argument where strings stand as they are and other values as JSON."""
    return value if isinstance(value, str) else to_json(value)


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """The call's arguments as an object; an empty text is no arguments. Raises FormatError."""
    try:
        value = json.loads(call.arguments or "{}")
    except ValueError:
        value = None
    except RecursionError:
        raise _too_deep(call) from None
    if not isinstance(value, dict):
        raise FormatError(
            f"The arguments of the call to '{call.name}' are not a JSON object.", "messages"
        )
    if _is_deep(value):
        raise _too_deep(call)
    if _SURROGATE.search(call.arguments):
        value = json.loads(whole_text(json.dumps(value, ensure_ascii=False)))
    return cast(dict[str, Any], value)


def _is_deep(value: Any) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_ARGUMENTS_DEPTH):
        level = [item for outer in level for item in _items(outer)]
        if not level:
            return False
    return True


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return cast(dict[str, Any], value).values()
    return cast(list[Any], value) if isinstance(value, list) else ()


def _too_deep(call: ToolCall) -> FormatError:
    return FormatError(
        f"The arguments of the call to '{call.name}' are nested more than {MAX_ARGUMENTS_DEPTH} "
        "levels deep.",
        "messages",
    )
