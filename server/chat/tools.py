"""Tools and the choice among them as they arrive in a chat request, and their plan.

The deprecated `functions` and `function_call` become tools and a tool choice.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.answering.tool_plan import (
    MAX_TOOLS,
    NO_TOOLS,
    ToolPlan,
    call_one,
    check_known,
    check_unique,
    make_tool,
    offer,
    offer_some,
)
from server.errors import invalid_value, unsupported_value
from server.wire import RequestBody, several
from templates.conversation import Tool

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
    check_unique(known, "tools[{}].function.name")
    if tool_choice == "none":
        return NO_TOOLS
    is_parallel = parallel is not False
    if tool_choice is None:
        param = "tools" if is_parallel else "parallel_tool_calls"
        return offer(known, required=False, parallel=is_parallel, param=param)
    if isinstance(tool_choice, str):
        required = tool_choice == "required"
        return offer(known, required=required, parallel=is_parallel, param="tool_choice")
    if isinstance(tool_choice, AllowedChoice):
        return _allowed(known, tool_choice.allowed_tools, is_parallel)
    if isinstance(tool_choice, NamedCustomChoice):
        raise unsupported_value("tool_choice.type", _NO_CUSTOM)
    name = tool_choice.function.name
    check_known(known, name, "tool_choice.function.name")
    return call_one(known, name, param="tool_choice")


def plan_functions(
    functions: list[FunctionBody], function_call: FunctionCallChoice | None
) -> ToolPlan:
    """Raises InvalidRequest."""
    known = tuple(
        _function(function, f"functions[{index}]") for index, function in enumerate(functions)
    )
    check_unique(known, "functions[{}].name")
    if function_call == "none":
        return NO_TOOLS
    if function_call is None or function_call == "auto":
        return offer(known, required=False, parallel=False, param="function_call", legacy=True)
    check_known(known, function_call.name, "function_call.name")
    return call_one(known, function_call.name, param="function_call", legacy=True)


def _allowed(known: tuple[Tool, ...], allowed: AllowedTools, parallel: bool) -> ToolPlan:
    names: list[str] = []
    for index, entry in enumerate(allowed.tools):
        place = f"tool_choice.allowed_tools.tools[{index}]"
        if entry.function is None:
            raise unsupported_value(f"{place}.type", _NO_CUSTOM)
        check_known(known, entry.function.name, f"{place}.function.name")
        names.append(entry.function.name)
    required = allowed.mode == "required"
    return offer_some(known, names, required=required, parallel=parallel, param="tool_choice")


def _tool(tool: FunctionTool | CustomTool, index: int) -> Tool:
    if isinstance(tool, CustomTool):
        raise unsupported_value(f"tools[{index}].type", _NO_CUSTOM)
    return _function(tool.function, f"tools[{index}].function")


def _function(body: FunctionBody, place: str) -> Tool:
    return make_tool(
        body.name, body.description, body.parameters, bool(body.strict), f"{place}.parameters"
    )
