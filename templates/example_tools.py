"""Tools and tool calls of a training file's row, in OpenAI's present and older shapes, and in
Hugging Face's: arguments as an object, calls without ids, declarations without a wrapper, tools as
JSON text."""

from __future__ import annotations

import json
import re
from typing import cast

from templates.conversation import Tool, ToolCall
from templates.example_fields import (
    ExampleError,
    JsonObject,
    RowNotes,
    is_encodable,
    object_of,
    only_fields,
    optional_text,
    parse_json,
    read_at,
    text_of,
)

NO_ID = ""
"""Of a call, or of the answer to one, until `templates.example_ids` has given it one."""
_MAX_FUNCTIONS = 128
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""As in requests: a model cannot be asked with a tool of another name."""


def read_tool_calls(message: JsonObject, notes: RowNotes) -> tuple[ToolCall, ...]:
    legacy = message.get("function_call")
    raw = message.get("tool_calls")
    if legacy is not None and raw:
        raise ExampleError("has both 'function_call' and 'tool_calls'")
    if legacy is not None:
        return (read_at("function_call", lambda call: _called_function(call, notes), legacy),)
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise ExampleError("'tool_calls' must be an array")
    return tuple(
        read_at(f"tool call {number}", lambda call: _tool_call(call, notes), item)
        for number, item in enumerate(cast(list[object], raw), 1)
    )


def _tool_call(value: object, notes: RowNotes) -> ToolCall:
    call = object_of(value, "a tool call")
    if "function" not in call and "name" in call:
        call = {"id": call.get("id"), "function": {k: v for k, v in call.items() if k != "id"}}
    only_fields(call, frozenset({"id", "type", "function"}), "")
    if call.get("type", "function") != "function":
        raise ExampleError("'type' must be 'function'")
    function = _called_function(call.get("function"), notes)
    return ToolCall(function.name, function.arguments, optional_text(call, "id") or NO_ID)


def _called_function(value: object, notes: RowNotes) -> ToolCall:
    function = object_of(value, "'function'")
    only_fields(function, frozenset({"name", "arguments"}), "function.")
    given = function.get("arguments")
    arguments = _as_text(given) if isinstance(given, dict) else text_of(function, "arguments")
    decoded = _decoded(arguments)
    if isinstance(decoded, str):
        # OpenAI's own cookbook has files whose arguments were encoded twice.
        notes.unwrapped_arguments = True
        arguments = decoded
        decoded = _decoded(arguments)
    if not isinstance(decoded, dict) or not is_encodable(decoded):
        raise ExampleError(_NOT_ARGUMENTS)
    return ToolCall(text_of(function, "name"), arguments)


_NOT_ARGUMENTS = "'function.arguments' must be the text of a JSON object"


def _as_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _decoded(arguments: str) -> object:
    try:
        return parse_json(arguments)
    except ExampleError as error:
        raise ExampleError(f"{_NOT_ARGUMENTS}, and has {error}") from error


def read_tools(row: JsonObject) -> tuple[Tool, ...]:
    if row.get("tools") and row.get("functions"):
        raise ExampleError("'tools' and 'functions' exclude each other")
    for key in ("tools", "functions"):
        raw = row.get(key)
        if isinstance(raw, str):
            raw = read_at(f"'{key}' holds", parse_json, raw) if raw.strip() else None
        if raw is None:
            continue
        if not isinstance(raw, list) or len(cast(list[object], raw)) > _MAX_FUNCTIONS:
            raise ExampleError(f"'{key}' must be an array of at most {_MAX_FUNCTIONS}")
        read = _tool if key == "tools" else _function
        tools = tuple(
            read_at(f"{key}[{index}]", read, item)
            for index, item in enumerate(cast(list[object], raw))
        )
        if len({tool.name for tool in tools}) < len(tools):
            raise ExampleError(f"'{key}' declares two tools of one name")
        if tools:
            return tools
    return ()


def _tool(value: object) -> Tool:
    tool = object_of(value, "a tool")
    if "function" not in tool and "name" in tool:
        return _function({k: v for k, v in tool.items() if (k, v) != ("type", "function")})
    only_fields(tool, frozenset({"type", "function"}), "")
    if tool.get("type") != "function":
        raise ExampleError("'type' must be 'function'")
    return _function(tool.get("function"))


def _function(value: object) -> Tool:
    function = object_of(value, "'function'")
    only_fields(function, frozenset({"name", "description", "parameters", "strict"}), "function.")
    parameters = function.get("parameters")
    if parameters is not None:
        parameters = object_of(parameters, "'parameters'")
        if not is_encodable(parameters):
            raise ExampleError("'parameters' holds an unpaired surrogate")
    if not isinstance(function.get("strict"), bool | None):
        raise ExampleError("'strict' must be a boolean")
    name = text_of(function, "name")
    if not _TOOL_NAME.fullmatch(name):
        raise ExampleError("'name' must be 1 to 64 letters, digits, '_' or '-'")
    return Tool(
        name, optional_text(function, "description"), parameters, bool(function.get("strict"))
    )
