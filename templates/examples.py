"""Rows of training files: one JSON object a line, as OpenAI's fine-tuning takes them.

Three kinds: chat (`messages`, `tools`), prompt and completion, and plain text for pretraining.
Reading a row checks its form and turns OpenAI's message shapes into a `Conversation`; counts,
limits and duplicate rows are the caller's to check. Messages of `ExampleError` follow OpenAI's
wording and never quote the row's text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast

from templates.conversation import (
    ChatMessage,
    Conversation,
    MediaKind,
    MediaPart,
    Part,
    Role,
    TextPart,
    Tool,
    ToolCall,
)

_JsonObject = dict[str, Any]
_T = TypeVar("_T")


class ExampleError(Exception):
    """What is wrong with a row, without its line number."""


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
_MAX_FUNCTIONS = 128


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
    row = cast(_JsonObject, row)
    if "messages" in row:
        return ChatExample(_conversation(row))
    if "prompt" in row or "completion" in row:
        _only(row, frozenset({"prompt", "completion"}), "")
        completion = _text_of(row, "completion")
        if not completion:
            raise ExampleError("'completion' is empty")
        return CompletionExample(_text_of(row, "prompt"), completion)
    if "text" in row:
        _only(row, frozenset({"text"}), "")
        text = _text_of(row, "text")
        if not text:
            raise ExampleError("'text' is empty")
        return TextExample(text)
    raise ExampleError(_UNEXPECTED_FORMAT)


def _refuse_constant(name: str) -> NoReturn:
    raise ExampleError(f"line contains invalid json: {name} is not a JSON value")


def _conversation(row: _JsonObject) -> Conversation:
    _only(row, _CHAT_KEYS, "")
    if not isinstance(row.get("parallel_tool_calls"), bool | None):
        raise ExampleError("'parallel_tool_calls' must be a boolean")
    tools = _tools(row)
    raw = row["messages"]
    if not isinstance(raw, list) or not raw:
        raise ExampleError("'messages' must be a non-empty array")
    messages = tuple(
        _at(f"message {number}", _message, item)
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


# --- messages -------------------------------------------------------------------------------------


def _message(value: object) -> ChatMessage:
    message = _object(value, "a message")
    if "role" not in message:
        raise ExampleError("Discriminator 'role' is missing in value")
    match message["role"]:
        case "assistant":
            return _assistant(message)
        case "tool":
            _only(message, _TOOL_KEYS, "")
            call_id = _text_of(message, "tool_call_id")
            parts = _content(message)
            name = _optional_text(message, "name")
            return ChatMessage(Role.TOOL, parts, tool_call_id=call_id, name=name)
        case "function":
            _only(message, _MESSAGE_KEYS, "")
            return ChatMessage(Role.TOOL, _content(message), name=_text_of(message, "name"))
        case "system" | "developer" | "user" as role:
            _only(message, _MESSAGE_KEYS, "")
            parts = _content(message, allow_images=role == "user")
            return ChatMessage(Role(role), parts, name=_optional_text(message, "name"))
        case _:
            raise ExampleError(
                "'role' must be one of system, developer, user, assistant, tool, function"
            )


def _assistant(message: _JsonObject) -> ChatMessage:
    _only(message, _ASSISTANT_KEYS, "")
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise ExampleError("'weight' must be 0 or 1")
    calls = _tool_calls(message)
    parts: tuple[Part, ...] = ()
    if message.get("content") is not None:
        parts = _content(message)
    elif (refusal := _optional_text(message, "refusal")) is not None:
        parts = (TextPart(refusal),)
    elif not calls:
        raise ExampleError("an assistant message needs 'content' or 'tool_calls'")
    return ChatMessage(
        Role.ASSISTANT,
        parts,
        reasoning=_optional_text(message, "reasoning_content"),
        tool_calls=calls,
        name=_optional_text(message, "name"),
        weight=None if weight is None else int(weight),
    )


def _content(message: _JsonObject, *, allow_images: bool = False) -> tuple[Part, ...]:
    content = message.get("content")
    if isinstance(content, str):
        _encodable(content, "content")
        return (TextPart(content),)
    if not isinstance(content, list) or not content:
        raise ExampleError("'content' must be a string or a non-empty array of parts")
    return tuple(
        _at(f"content part {number}", lambda item: _part(item, allow_images), item)
        for number, item in enumerate(cast(list[object], content), 1)
    )


def _part(value: object, allow_images: bool) -> Part:
    part = _object(value, "a content part")
    match part.get("type"):
        case "text":
            _only(part, frozenset({"type", "text"}), "")
            return TextPart(_text_of(part, "text"))
        case "image_url" if allow_images:
            _only(part, frozenset({"type", "image_url"}), "")
            image = _object(part.get("image_url"), "'image_url'")
            _only(image, frozenset({"url", "detail"}), "image_url.")
            detail = _optional_text(image, "detail")
            return MediaPart(MediaKind.IMAGE, _text_of(image, "url"), detail)
        case _:
            raise ExampleError("'type' of a content part is not one this message may have")


# --- tools ----------------------------------------------------------------------------------------


def _tool_calls(message: _JsonObject) -> tuple[ToolCall, ...]:
    legacy = message.get("function_call")
    if legacy is not None:
        return (_at("function_call", _called_function, legacy),)
    raw = message.get("tool_calls")
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise ExampleError("'tool_calls' must be an array")
    return tuple(
        _at(f"tool call {number}", _tool_call, item)
        for number, item in enumerate(cast(list[object], raw), 1)
    )


def _tool_call(value: object) -> ToolCall:
    call = _object(value, "a tool call")
    _only(call, frozenset({"id", "type", "function"}), "")
    if call.get("type", "function") != "function":
        raise ExampleError("'type' must be 'function'")
    function = _called_function(call.get("function"))
    return ToolCall(function.name, function.arguments, _text_of(call, "id"))


def _called_function(value: object) -> ToolCall:
    function = _object(value, "'function'")
    _only(function, frozenset({"name", "arguments"}), "function.")
    arguments = _text_of(function, "arguments")
    try:
        decoded: object = json.loads(arguments)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ExampleError("'function.arguments' must be the text of a JSON object") from error
    if not isinstance(decoded, dict):
        raise ExampleError("'function.arguments' must be the text of a JSON object")
    return ToolCall(_text_of(function, "name"), arguments)


def _tools(row: _JsonObject) -> tuple[Tool, ...]:
    for key in ("tools", "functions"):
        raw = row.get(key)
        if raw is None:
            continue
        if not isinstance(raw, list) or len(cast(list[object], raw)) > _MAX_FUNCTIONS:
            raise ExampleError(f"'{key}' must be an array of at most {_MAX_FUNCTIONS}")
        read = _tool if key == "tools" else _function
        return tuple(
            _at(f"{key}[{index}]", read, item) for index, item in enumerate(cast(list[object], raw))
        )
    return ()


def _tool(value: object) -> Tool:
    tool = _object(value, "a tool")
    _only(tool, frozenset({"type", "function"}), "")
    if tool.get("type") != "function":
        raise ExampleError("'type' must be 'function'")
    return _function(tool.get("function"))


def _function(value: object) -> Tool:
    function = _object(value, "'function'")
    _only(function, frozenset({"name", "description", "parameters", "strict"}), "function.")
    parameters = function.get("parameters")
    if parameters is not None:
        parameters = _object(parameters, "'parameters'")
    if not isinstance(function.get("strict"), bool | None):
        raise ExampleError("'strict' must be a boolean")
    return Tool(
        _text_of(function, "name"),
        _optional_text(function, "description"),
        parameters,
        bool(function.get("strict")),
    )


# --- values ---------------------------------------------------------------------------------------


def _at(place: str, read: Callable[[object], _T], value: object) -> _T:
    """Reads `value`; an error gets its place in front."""
    try:
        return read(value)
    except ExampleError as error:
        raise ExampleError(f"{place} {error}") from error


def _object(value: object, what: str) -> _JsonObject:
    if not isinstance(value, dict):
        raise ExampleError(f"{what} must be an object")
    return cast(_JsonObject, value)


def _text_of(values: _JsonObject, key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise ExampleError(f"'{key}' must be a string")
    _encodable(value, key)
    return value


def _optional_text(values: _JsonObject, key: str) -> str | None:
    return None if values.get(key) is None else _text_of(values, key)


def _encodable(value: str, key: str) -> None:
    """JSON can escape half a surrogate pair, which no tokenizer takes."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ExampleError(f"'{key}' holds an unpaired surrogate") from error


def _only(values: _JsonObject, known: frozenset[str], prefix: str) -> None:
    """A field that would be ignored is refused, unless it says nothing."""
    for key, value in values.items():
        if key not in known and value not in (None, [], {}):
            name = key if key.isidentifier() and len(key) <= 64 else "(unnamed)"
            raise ExampleError(f"has an unknown field '{prefix}{name}'")
