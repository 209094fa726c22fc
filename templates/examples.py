"""Rows of training files: one JSON object a line, as OpenAI's fine-tuning takes them.

Three kinds: chat (`messages`, `tools`), prompt and completion, and plain text for pretraining.
Reading a row checks its form and turns OpenAI's message shapes into a `Conversation`; counts,
limits and duplicate rows are the caller's to check. Messages of `ExampleError` follow OpenAI's
wording and never quote the row's text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NoReturn, cast

from templates.conversation import (
    ChatMessage,
    Conversation,
    MediaKind,
    MediaPart,
    Part,
    Role,
    TextPart,
)
from templates.example_fields import (
    ExampleError,
    JsonObject,
    check_encodable,
    object_of,
    only_fields,
    optional_text,
    read_at,
    text_of,
)
from templates.example_tools import read_tool_calls, read_tools


@dataclass(frozen=True, slots=True)
class ChatExample:
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class CompletionExample:
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class TextExample:
    text: str


Example = ChatExample | CompletionExample | TextExample

_UNEXPECTED_FORMAT = (
    "Unexpected file format, expected either prompt/completion pairs or chat messages."
)
_CHAT_KEYS = frozenset({"messages", "tools", "parallel_tool_calls", "functions"})
_MESSAGE_KEYS = frozenset({"role", "content", "name"})
_ASSISTANT_KEYS = _MESSAGE_KEYS | {
    "weight",
    "tool_calls",
    "function_call",
    "refusal",
    "reasoning_content",
}
_TOOL_KEYS = _MESSAGE_KEYS | {"tool_call_id"}


def read_example(line: str | bytes) -> Example:
    """Raises ExampleError."""
    try:
        row: object = json.loads(line, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ExampleError("line is not valid UTF-8") from error
    except json.JSONDecodeError as error:
        raise ExampleError(f"line contains invalid json: {error}") from error
    except RecursionError as error:
        raise ExampleError("line contains invalid json: nested too deeply") from error
    if not isinstance(row, dict):
        raise ExampleError(_UNEXPECTED_FORMAT)
    row = cast(JsonObject, row)
    if "messages" in row:
        return ChatExample(_conversation(row))
    if "prompt" in row or "completion" in row:
        only_fields(row, frozenset({"prompt", "completion"}), "")
        completion = text_of(row, "completion")
        if not completion:
            raise ExampleError("'completion' is empty")
        return CompletionExample(text_of(row, "prompt"), completion)
    if "text" in row:
        only_fields(row, frozenset({"text"}), "")
        text = text_of(row, "text")
        if not text:
            raise ExampleError("'text' is empty")
        return TextExample(text)
    raise ExampleError(_UNEXPECTED_FORMAT)


def _refuse_constant(name: str) -> NoReturn:
    raise ExampleError(f"line contains invalid json: {name} is not a JSON value")


def _conversation(row: JsonObject) -> Conversation:
    only_fields(row, _CHAT_KEYS, "")
    if not isinstance(row.get("parallel_tool_calls"), bool | None):
        raise ExampleError("'parallel_tool_calls' must be a boolean")
    tools = read_tools(row)
    raw = row["messages"]
    if not isinstance(raw, list) or not raw:
        raise ExampleError("'messages' must be a non-empty array")
    messages = tuple(
        read_at(f"message {number}", _message, item)
        for number, item in enumerate(cast(list[object], raw), 1)
    )
    declared = {tool.name for tool in tools}
    for number, message in enumerate(messages, 1):
        for call in message.tool_calls:
            if call.name not in declared:
                raise ExampleError(f"message {number} calls a tool that 'tools' does not declare")
    if not any(message.role is Role.ASSISTANT and message.weight != 0 for message in messages):
        raise ExampleError("there must be at least one assistant message with weight 1")
    return Conversation(messages, tools)


def _message(value: object) -> ChatMessage:
    message = object_of(value, "a message")
    if "role" not in message:
        raise ExampleError("Discriminator 'role' is missing in value")
    match message["role"]:
        case "assistant":
            return _assistant(message)
        case "tool":
            only_fields(message, _TOOL_KEYS, "")
            call_id = text_of(message, "tool_call_id")
            parts = _content(message)
            name = optional_text(message, "name")
            return ChatMessage(Role.TOOL, parts, tool_call_id=call_id, name=name)
        case "function":
            only_fields(message, _MESSAGE_KEYS, "")
            return ChatMessage(Role.TOOL, _content(message), name=text_of(message, "name"))
        case "system" | "developer" | "user" as role:
            only_fields(message, _MESSAGE_KEYS, "")
            parts = _content(message, allow_images=role == "user")
            return ChatMessage(Role(role), parts, name=optional_text(message, "name"))
        case _:
            raise ExampleError(
                "'role' must be one of system, developer, user, assistant, tool, function"
            )


def _assistant(message: JsonObject) -> ChatMessage:
    only_fields(message, _ASSISTANT_KEYS, "")
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise ExampleError("'weight' must be 0 or 1")
    calls = read_tool_calls(message)
    parts: tuple[Part, ...] = ()
    if message.get("content") is not None:
        parts = _content(message)
    elif (refusal := optional_text(message, "refusal")) is not None:
        parts = (TextPart(refusal),)
    elif not calls:
        raise ExampleError("an assistant message needs 'content' or 'tool_calls'")
    return ChatMessage(
        Role.ASSISTANT,
        parts,
        reasoning=optional_text(message, "reasoning_content"),
        tool_calls=calls,
        name=optional_text(message, "name"),
        weight=None if weight is None else int(weight),
    )


def _content(message: JsonObject, *, allow_images: bool = False) -> tuple[Part, ...]:
    content = message.get("content")
    if isinstance(content, str):
        check_encodable(content, "content")
        return (TextPart(content),)
    if not isinstance(content, list) or not content:
        raise ExampleError("'content' must be a string or a non-empty array of parts")
    return tuple(
        read_at(f"content part {number}", lambda item: _part(item, allow_images), item)
        for number, item in enumerate(cast(list[object], content), 1)
    )


def _part(value: object, allow_images: bool) -> Part:
    part = object_of(value, "a content part")
    match part.get("type"):
        case "text":
            only_fields(part, frozenset({"type", "text"}), "")
            return TextPart(text_of(part, "text"))
        case "image_url" if allow_images:
            only_fields(part, frozenset({"type", "image_url"}), "")
            image = object_of(part.get("image_url"), "'image_url'")
            only_fields(image, frozenset({"url", "detail"}), "image_url.")
            detail = optional_text(image, "detail")
            return MediaPart(MediaKind.IMAGE, text_of(image, "url"), detail)
        case _:
            raise ExampleError("'type' of a content part is not one this message may have")
