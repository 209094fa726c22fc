"""Messages, tools and options as the variables that a model's chat template reads.

Templates differ in what they expect: content as a text or as a list of parts (always a list where
there are media, which stand in it as `{"type": "image"}`), arguments of past calls as an object or
as JSON text, a developer role or none. What one expects is found by `templates.jinja_probe`, not by
its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from templates.conversation import ChatMessage, MediaPart, RenderOptions, Role, Tool, ToolCall
from templates.dialects.base import arguments_of, wrapped_declaration
from templates.effort import wants_thinking
from templates.format import FormatError

EFFORT_VARIABLE = "reasoning_effort"
DROPS_THOUGHTS = ("clear_thinking", "truncate_history_thinking", "drop_thinking")
"""Switches of templates that drop the thoughts of earlier turns: GLM's, Nemotron's, DeepSeek's."""

_SHORT_ID = re.compile("[A-Za-z0-9]{9}")

ToText = Callable[[str], str]
"""What is done to a text of the caller before the template sees it."""


@dataclass(frozen=True, slots=True)
class MessageStyle:
    content_parts: bool = False
    """Content is a list of `{"type": "text", "text": ...}`."""
    arguments_text: bool = False
    """Arguments of calls are JSON text."""
    developer_role: bool = False
    short_ids: bool = False
    """Ids of calls are nine letters and digits (Mistral's templates refuse others)."""


def message_variables(
    messages: Sequence[ChatMessage], style: MessageStyle, to_text: ToText, to_answer: ToText
) -> list[dict[str, Any]]:
    """`to_answer` is for what an assistant said, `to_text` for all other texts."""
    return [_message(message, style, to_text, to_answer) for message in messages]


def _message(
    message: ChatMessage, style: MessageStyle, to_text: ToText, to_answer: ToText
) -> dict[str, Any]:
    role = message.role
    if role is Role.DEVELOPER and not style.developer_role:
        role = Role.SYSTEM
    variables: dict[str, Any] = {"role": str(role)}
    to_content = to_answer if role is Role.ASSISTANT else to_text
    if style.content_parts or any(isinstance(part, MediaPart) for part in message.parts):
        variables["content"] = [
            {"type": str(part.kind)}
            if isinstance(part, MediaPart)
            else {"type": "text", "text": to_content(part.text)}
            for part in message.parts
        ]
    else:
        variables["content"] = to_content(message.text)
    if message.name is not None:
        variables["name"] = to_text(message.name)
    if message.tool_call_id is not None:
        variables["tool_call_id"] = to_text(_call_id(message.tool_call_id, style))
    if message.reasoning is not None:
        reasoning = to_text(message.reasoning)
        variables["thinking"] = reasoning
        variables["reasoning_content"] = reasoning
    if message.tool_calls:
        variables["tool_calls"] = [_call(call, style, to_text) for call in message.tool_calls]
    return variables


def _call(call: ToolCall, style: MessageStyle, to_text: ToText) -> dict[str, Any]:
    arguments: Any = to_text(call.arguments)
    if not style.arguments_text:
        arguments = _mapped(arguments_of(call), to_text)
    function = {"name": to_text(call.name), "arguments": arguments}
    variables: dict[str, Any] = {"type": "function", "function": function}
    if call.id is not None:
        variables["id"] = to_text(_call_id(call.id, style))
    return variables


def _call_id(given: str, style: MessageStyle) -> str:
    """The same short id for the same id, as a call and its result must agree."""
    if not style.short_ids or _SHORT_ID.fullmatch(given):
        return given
    return sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def _mapped(value: Any, to_text: ToText) -> Any:
    if isinstance(value, str):
        return to_text(value)
    if isinstance(value, dict):
        return {to_text(str(key)): _mapped(item, to_text) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, to_text) for item in value]
    return value


def tool_variables(tools: tuple[Tool, ...], to_text: ToText) -> list[Any] | None:
    return [_mapped(wrapped_declaration(tool), to_text) for tool in tools] or None


RESERVED = frozenset(
    {
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "bos_token",
        "eos_token",
        "enable_thinking",
        "reasoning_effort",
    }
)
"""Template variables that have a request field of their own, or are ours to set."""


def option_variables(
    options: RenderOptions, known: frozenset[str], can_think: bool, to_text: ToText
) -> dict[str, Any]:
    """Variables for the options; `known` are those the template reads. Raises FormatError for an
    option that the template would not see."""
    variables: dict[str, Any] = {}
    for name, value in options.template_kwargs.items():
        if name not in known or name.startswith("tuneyard_"):
            raise FormatError(
                f"The model's chat template has no variable '{name}'.", "chat_template_kwargs"
            )
        if name in RESERVED - {"enable_thinking", "reasoning_effort"}:
            raise FormatError(f"'{name}' cannot be set here.", "chat_template_kwargs")
        variables[name] = _mapped(value, to_text)
    if options.documents:
        if "documents" not in known:
            raise FormatError("The model's chat template takes no documents.", "documents")
        variables["documents"] = _mapped(list(options.documents), to_text)
    if options.preserve_thinking is not None:
        variables |= _preserving(options.preserve_thinking, known)
    elif options.prefer_thoughts and not known.isdisjoint(("preserve_thinking", *DROPS_THOUGHTS)):
        variables |= _preserving(True, known)
    if options.keep_given_thoughts:
        raise FormatError(
            "A model's own chat template cannot mix answers with and without thoughts.",
            "enable_thinking",
        )
    return {**variables, **_thinking(options, known, can_think)}


def _preserving(preserve: bool, known: frozenset[str]) -> dict[str, bool]:
    if "preserve_thinking" in known:
        return {"preserve_thinking": preserve}
    for name in DROPS_THOUGHTS:
        if name in known:
            return {name: not preserve}
    raise FormatError(
        "The model's chat template has no switch for thoughts of earlier turns.",
        "preserve_thinking",
    )


def _thinking(options: RenderOptions, known: frozenset[str], can_think: bool) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    if options.thinking_budget is not None and "thinking_budget" in known:
        variables["thinking_budget"] = options.thinking_budget
    enabled, effort = options.enable_thinking, options.reasoning_effort
    switch = next((name for name in ("enable_thinking", "thinking") if name in known), None)
    if effort is not None and EFFORT_VARIABLE in known:
        variables[EFFORT_VARIABLE] = effort
    if switch is not None or effort is None or EFFORT_VARIABLE not in known:
        enabled = wants_thinking(options)
    if enabled is not None and switch is not None:
        variables[switch] = enabled
    elif enabled is False and "thinking_budget" in known:
        variables["thinking_budget"] = 0
    elif enabled is not None and enabled is not can_think:
        field = "enable_thinking" if options.enable_thinking is not None else "reasoning_effort"
        raise FormatError("The model's chat template has no switch for thinking.", field)
    return variables
