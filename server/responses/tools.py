"""Tools and the choice among them as the Responses API has them, which is flatter than chat's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from server.answering.strict_schema import broken_promise
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
from server.chat.tools import ToolName
from server.errors import InvalidRequest, invalid_value, unsupported_parameter, unsupported_value
from server.generation.schema_limits import oversize
from server.wire import RequestBody, several
from templates.conversation import Tool


class FlatTool(RequestBody):
    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """None: as strict as the schema allows."""
    output_schema: dict[str, Any] | None = None
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None
    async_: bool | None = Field(default=None, alias="async")

    @cached_property
    def is_strict(self) -> bool:
        """As asked; without a word, strict where the schema can be kept to the letter."""
        if self.strict is not None:
            return self.strict
        schema = self.parameters
        return schema is not None and oversize(schema) is None and broken_promise(schema) is None


class OtherTool(RequestBody):
    """A hosted tool, or another that we do not have; it is refused by name."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    type: str


def _tool_type(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else None
    return "other" if isinstance(kind, str) and kind != "function" else "function"


ToolBody = Annotated[
    Annotated[FlatTool, Tag("function")] | Annotated[OtherTool, Tag("other")],
    Discriminator(_tool_type),
]


class FunctionChoice(RequestBody):
    type: Literal["function"]
    name: str


class AllowedToolName(RequestBody):
    """What else it may have tells hosted tools apart, which are refused by their type."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    type: str
    name: str | None = None


class AllowedToolsChoice(RequestBody):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedToolName], several(MAX_TOOLS, 1)]


def _choice_type(choice: Any) -> str:
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "allowed_tools":
        return "allowed_tools"
    return "other" if isinstance(kind, str) and kind != "function" else "function"


ToolChoiceBody = (
    Literal["none", "auto", "required"]
    | Annotated[
        Annotated[FunctionChoice, Tag("function")]
        | Annotated[AllowedToolsChoice, Tag("allowed_tools")]
        | Annotated[OtherTool, Tag("other")],
        Discriminator(_choice_type),
    ]
)


def plan_tools(
    tools: Sequence[FlatTool | OtherTool],
    choice: str | FunctionChoice | AllowedToolsChoice | OtherTool | None,
    parallel: bool | None,
) -> ToolPlan:
    """Raises InvalidRequest."""
    known = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools))
    check_unique(known, "tools[{}].name")
    if isinstance(choice, OtherTool):
        raise _no_such_kind(choice.type, "tool_choice.type")
    if not known:
        if choice in (None, "none", "auto"):
            return NO_TOOLS
        raise invalid_value("tool_choice", "It is only allowed when 'tools' are given.")
    if choice == "none":
        return NO_TOOLS
    is_parallel = parallel is not False
    if choice is None or isinstance(choice, str):
        param = "tool_choice" if choice is not None else "tools"
        required = choice == "required"
        return offer(known, required=required, parallel=is_parallel, param=param)
    if isinstance(choice, FunctionChoice):
        check_known(known, choice.name, "tool_choice.name")
        return call_one(known, choice.name, param="tool_choice")
    return offer_some(
        known,
        [_allowed(tool, known, index) for index, tool in enumerate(choice.tools)],
        required=choice.mode == "required",
        parallel=is_parallel,
        param="tool_choice",
    )


def _tool(tool: FlatTool | OtherTool, place: str) -> Tool:
    if isinstance(tool, OtherTool):
        raise _no_such_kind(tool.type, f"{place}.type")
    if tool.defer_loading:
        raise unsupported_parameter(f"{place}.defer_loading", "There is no tool search here.")
    if tool.async_:
        raise unsupported_parameter(f"{place}.async", "Calls are answered before the next turn.")
    if tool.output_schema is not None:
        raise unsupported_parameter(
            f"{place}.output_schema", "What functions give back is not checked."
        )
    if tool.allowed_callers not in (None, ["direct"]):
        raise unsupported_parameter(
            f"{place}.allowed_callers", "Functions are called by the model only."
        )
    return make_tool(
        tool.name, tool.description, tool.parameters, tool.is_strict, f"{place}.parameters"
    )


def _allowed(tool: AllowedToolName, known: tuple[Tool, ...], index: int) -> str:
    place = f"tool_choice.tools[{index}]"
    if tool.type != "function":
        raise _no_such_kind(tool.type, f"{place}.type")
    name = tool.name or ""
    check_known(known, name, f"{place}.name")
    return name


def _no_such_kind(kind: str, param: str) -> InvalidRequest:
    return unsupported_value(
        param, f"There is no tool '{kind[:64]}' here; tools of type 'function' are called by you."
    )
