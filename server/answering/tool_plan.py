"""Tools and the choice among them, as a chat format takes them.

Endpoints translate their bodies with these functions, which check what OpenAI's API checks of
tools. `place` and `param` are fields in the endpoint's own words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.answering.strict_schema import broken_promise
from server.errors import InvalidRequest, invalid_value
from server.generation.schema_limits import oversize
from templates.conversation import Tool
from templates.format import ToolChoice, ToolChoiceMode

MAX_TOOLS = 128
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
    param: str = "tools"
    """The field to name where an engine cannot be held to the choice."""


NO_TOOLS = ToolPlan()


def make_tool(
    name: str, description: str | None, parameters: dict[str, Any] | None, strict: bool, place: str
) -> Tool:
    """`place` is that of its parameters. Raises InvalidRequest."""
    problem = _wrong_parameters(parameters or {}, strict)
    if problem is not None:
        raise InvalidRequest(
            f"Invalid schema for function '{name}': {problem}",
            param=place,
            code="invalid_function_parameters",
        )
    return Tool(name, description, parameters, strict)


def check_unique(tools: Sequence[Tool], place: str) -> None:
    """`place` is that of the name of the tool with the number that is filled in. Raises
    InvalidRequest."""
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.name in seen:
            raise invalid_value(place.format(index), f"'{tool.name}' is given twice.")
        seen.add(tool.name)


def check_known(tools: Sequence[Tool], name: str, param: str) -> None:
    """Raises InvalidRequest."""
    if all(tool.name != name for tool in tools):
        raise invalid_value(param, f"'{name}' is not among the given tools.")


def offer(
    tools: tuple[Tool, ...], *, required: bool, parallel: bool, param: str, legacy: bool = False
) -> ToolPlan:
    """The model may call any of the tools; it must call one if `required`."""
    mode = ToolChoiceMode.REQUIRED if required else ToolChoiceMode.AUTO
    return ToolPlan(tools, ToolChoice(mode, (), parallel), legacy=legacy, param=param)


def offer_some(
    tools: tuple[Tool, ...], names: Sequence[str], *, required: bool, parallel: bool, param: str
) -> ToolPlan:
    """Only the allowed tools are shown, so no other can be called even where nothing forces it."""
    shown = tuple(tool for tool in tools if tool.name in names)
    return offer(shown, required=required, parallel=parallel, param=param)


def call_one(tools: tuple[Tool, ...], name: str, *, param: str, legacy: bool = False) -> ToolPlan:
    """The model must call this one, once."""
    choice = ToolChoice(ToolChoiceMode.REQUIRED, (name,), False)
    return ToolPlan(tools, choice, named=True, legacy=legacy, param=param)


def _wrong_parameters(parameters: dict[str, Any], strict: bool) -> str | None:
    kind = parameters.get("type", "object")
    if kind != "object":
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: {kind!r:.64}'."
    if not isinstance(parameters.get("properties", {}), dict):
        return "In context=(), 'properties' must be an object."
    return oversize(parameters) or (broken_promise(parameters) if strict else None)
