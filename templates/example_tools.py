"""Tools and tool calls of a training file's row, in OpenAI's present and older shapes."""

from __future__ import annotations

import json
from typing import cast

from templates.conversation import Tool, ToolCall
from templates.example_fields import (
    ExampleError,
    JsonObject,
    object_of,
    only_fields,
    optional_text,
    read_at,
    text_of,
)

_MAX_FUNCTIONS = 128


def read_tool_calls(message: JsonObject) -> tuple[ToolCall, ...]:
    legacy = message.get("function_call")
    if legacy is not None:
        return (read_at("function_call", _called_function, legacy),)
    raw = message.get("tool_calls")
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise ExampleError("'tool_calls' must be an array")
    return tuple(
        read_at(f"tool call {number}", _tool_call, item)
        for number, item in enumerate(cast(list[object], raw), 1)
    )


def _tool_call(value: object) -> ToolCall:
    call = object_of(value, "a tool call")
    only_fields(call, frozenset({"id", "type", "function"}), "")
    if call.get("type", "function") != "function":
        raise ExampleError("'type' must be 'function'")
    function = _called_function(call.get("function"))
    return ToolCall(function.name, function.arguments, text_of(call, "id"))


def _called_function(value: object) -> ToolCall:
    function = object_of(value, "'function'")
    only_fields(function, frozenset({"name", "arguments"}), "function.")
    arguments = text_of(function, "arguments")
    try:
        decoded: object = json.loads(arguments)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ExampleError("'function.arguments' must be the text of a JSON object") from error
    if not isinstance(decoded, dict):
        raise ExampleError("'function.arguments' must be the text of a JSON object")
    return ToolCall(text_of(function, "name"), arguments)


def read_tools(row: JsonObject) -> tuple[Tool, ...]:
    for key in ("tools", "functions"):
        raw = row.get(key)
        if raw is None:
            continue
        if not isinstance(raw, list) or len(cast(list[object], raw)) > _MAX_FUNCTIONS:
            raise ExampleError(f"'{key}' must be an array of at most {_MAX_FUNCTIONS}")
        read = _tool if key == "tools" else _function
        return tuple(
            read_at(f"{key}[{index}]", read, item)
            for index, item in enumerate(cast(list[object], raw))
        )
    return ()


def _tool(value: object) -> Tool:
    tool = object_of(value, "a tool")
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
    if not isinstance(function.get("strict"), bool | None):
        raise ExampleError("'strict' must be a boolean")
    return Tool(
        text_of(function, "name"),
        optional_text(function, "description"),
        parameters,
        bool(function.get("strict")),
    )
