"""Tools and the choice among them, as they arrive and as a chat format takes them.

The deprecated `functions` and `function_call` become tools and a tool choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from server.chat.strict_schema import broken_promise
from server.errors import InvalidRequest, invalid_value, unsupported_value
from server.generation.schema_limits import oversize
from server.wire import RequestBody, several
from templates.conversation import Tool
from templates.format import ToolChoice, ToolChoiceMode

MAX_TOOLS = 128
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
_NO_CUSTOM = "Custom tools are not supported."


class FunctionBody(RequestBody):
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(RequestBody):
    type: Literal["function"]
    function: FunctionBody


class CustomBody(RequestBody):
    name: ToolName
    description: str | None = None
    format: dict[str, Any] | None = None


class CustomTool(RequestBody):
    type: Literal["custom"]
    custom: CustomBody


ToolBody = Annotated[FunctionTool | CustomTool, Field(discriminator="type")]


class FunctionName(RequestBody):
    name: str


class NamedChoice(RequestBody):
    type: Literal["function"]
    function: FunctionName


class NamedCustomChoice(RequestBody):
    type: Literal["custom"]
    custom: FunctionName


class AllowedTool(RequestBody):
    type: Literal["function", "custom"]
    function: FunctionName | None = None
    custom: FunctionName | None = None


class AllowedTools(RequestBody):
    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedTool], several(MAX_TOOLS, 1)]


class AllowedChoice(RequestBody):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoiceBody = (
    Literal["none", "auto", "required"]
    | Annotated[NamedChoice | NamedCustomChoice | AllowedChoice, Field(discriminator="type")]
)
FunctionCallChoice = Literal["none", "auto"] | FunctionName


_NEVER = ToolChoice(ToolChoiceMode.NONE)


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """`tools` are those the model is shown."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = _NEVER
    named: bool = False
    """One certain function was asked for, so the answer finishes with `stop` as OpenAI's does."""
    legacy: bool = False
    """Asked for by `functions`: the answer carries `function_call`."""


NO_TOOLS = ToolPlan()


def plan_tools(
    tools: list[FunctionTool | CustomTool] | None,
    tool_choice: ToolChoiceBody | None,
    parallel: bool | None,
) -> ToolPlan:
    """Raises InvalidRequest."""
    if not tools:
        if tool_choice is not None and tool_choice != "none":
            raise invalid_value("tool_choice", "It is only allowed when 'tools' are given.")
        if parallel is not None:
            raise invalid_value("parallel_tool_calls", "It is only allowed when 'tools' are given.")
        return NO_TOOLS
    known = tuple(_tool(tool, index) for index, tool in enumerate(tools))
    _check_unique(known, "tools[{}].function.name")
    is_parallel = parallel is not False
    if tool_choice == "none":
        return NO_TOOLS
    if tool_choice is None or tool_choice == "auto":
        return ToolPlan(known, ToolChoice(ToolChoiceMode.AUTO, (), is_parallel))
    if tool_choice == "required":
        return ToolPlan(known, ToolChoice(ToolChoiceMode.REQUIRED, (), is_parallel))
    if isinstance(tool_choice, AllowedChoice):
        return _allowed(known, tool_choice.allowed_tools, is_parallel)
    if isinstance(tool_choice, NamedCustomChoice):
        raise unsupported_value("tool_choice.type", _NO_CUSTOM)
    name = tool_choice.function.name
    _check_known(known, name, "tool_choice.function.name")
    return ToolPlan(known, ToolChoice(ToolChoiceMode.REQUIRED, (name,), False), named=True)


def plan_functions(
    functions: list[FunctionBody], function_call: FunctionCallChoice | None
) -> ToolPlan:
    """Raises InvalidRequest."""
    known = tuple(
        _function(function, f"functions[{index}]") for index, function in enumerate(functions)
    )
    _check_unique(known, "functions[{}].name")
    if function_call == "none":
        return NO_TOOLS
    if function_call is None or function_call == "auto":
        return ToolPlan(known, ToolChoice(ToolChoiceMode.AUTO, (), False), legacy=True)
    _check_known(known, function_call.name, "function_call.name")
    choice = ToolChoice(ToolChoiceMode.REQUIRED, (function_call.name,), False)
    return ToolPlan(known, choice, named=True, legacy=True)


def _allowed(known: tuple[Tool, ...], allowed: AllowedTools, parallel: bool) -> ToolPlan:
    """Only the allowed tools are shown, so no other can be called even where nothing forces it."""
    names: list[str] = []
    for index, entry in enumerate(allowed.tools):
        place = f"tool_choice.allowed_tools.tools[{index}]"
        if entry.function is None:
            raise unsupported_value(f"{place}.type", _NO_CUSTOM)
        _check_known(known, entry.function.name, f"{place}.function.name")
        names.append(entry.function.name)
    mode = ToolChoiceMode.AUTO if allowed.mode == "auto" else ToolChoiceMode.REQUIRED
    shown = tuple(tool for tool in known if tool.name in names)
    return ToolPlan(shown, ToolChoice(mode, (), parallel))


def _tool(tool: FunctionTool | CustomTool, index: int) -> Tool:
    if isinstance(tool, CustomTool):
        raise unsupported_value(f"tools[{index}].type", _NO_CUSTOM)
    return _function(tool.function, f"tools[{index}].function")


def _function(body: FunctionBody, place: str) -> Tool:
    problem = _wrong_parameters(body.parameters or {}, bool(body.strict))
    if problem is not None:
        raise InvalidRequest(
            f"Invalid schema for function '{body.name}': {problem}",
            param=f"{place}.parameters",
            code="invalid_function_parameters",
        )
    return Tool(body.name, body.description, body.parameters, bool(body.strict))


def _wrong_parameters(parameters: dict[str, Any], strict: bool) -> str | None:
    kind = parameters.get("type", "object")
    if kind != "object":
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: {kind!r}'."
    if not isinstance(parameters.get("properties", {}), dict):
        return "In context=(), 'properties' must be an object."
    return oversize(parameters) or (broken_promise(parameters) if strict else None)


def _check_unique(tools: tuple[Tool, ...], place: str) -> None:
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.name in seen:
            raise invalid_value(place.format(index), f"'{tool.name}' is given twice.")
        seen.add(tool.name)


def _check_known(tools: tuple[Tool, ...], name: str, param: str) -> None:
    if all(tool.name != name for tool in tools):
        raise invalid_value(param, f"'{name}' is not among the given tools.")
