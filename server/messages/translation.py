"""From a message request to what planning takes, in the words of templates."""

from __future__ import annotations

from typing import Any

from server.answering.constraint import check_schema
from server.answering.request import AnswerRequest, FieldNames
from server.answering.tool_plan import (
    NO_TOOLS,
    ToolPlan,
    call_one,
    check_known,
    check_unique,
    make_tool,
    offer,
)
from server.errors import invalid_value, unsupported_value
from server.generation.sampling import AskedSampling
from server.messages.conversation import read_turns
from server.messages.schemas import (
    AnyTool,
    CountMessageTokens,
    CreateMessage,
    ForcedTool,
    HostedTool,
    NoChoice,
    ThinkingOff,
    ThinkingOn,
)
from templates.conversation import RenderOptions, Role, Tool

_FORMAT = "output_config.format"
_NAMES = {
    "response_format": _FORMAT,
    "enable_thinking": "thinking",
    "thinking_budget": "thinking.budget_tokens",
    "reasoning_effort": "output_config.effort",
    "stop": "stop_sequences",
}


def read_message(body: CreateMessage) -> AnswerRequest:
    """Raises InvalidRequest."""
    thinking = body.thinking
    if isinstance(thinking, ThinkingOn) and thinking.budget_tokens >= body.max_tokens:
        raise invalid_value("thinking.budget_tokens", "It must be less than 'max_tokens'.")
    asked: dict[str, Any] = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "stop": body.stop_sequences or None,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    return _read(body, sampling=AskedSampling(**given), max_tokens=body.max_tokens)


def read_count(body: CountMessageTokens) -> AnswerRequest:
    """Raises InvalidRequest."""
    return _read(body)


def _read(body: CountMessageTokens, **more: Any) -> AnswerRequest:
    transcript = read_turns(body)
    thinking, config = body.thinking, body.output_config
    schema = None
    if config is not None and config.format is not None:
        schema = config.format.schema_
        check_schema(schema, "output", strict=False, param=_FORMAT)
    switch = None
    if isinstance(thinking, ThinkingOn | ThinkingOff):
        switch = isinstance(thinking, ThinkingOn)
    options = RenderOptions(
        enable_thinking=switch,
        reasoning_effort=None if config is None else config.effort,
        thinking_budget=thinking.budget_tokens if isinstance(thinking, ThinkingOn) else None,
        prefer_thoughts=any(message.reasoning is not None for message in transcript.messages),
        continue_final_message=transcript.messages[-1].role is Role.ASSISTANT,
    )
    return AnswerRequest(
        model=body.model,
        messages=tuple(transcript.messages),
        tools=_plan_tools(body),
        options=options,
        schema=schema,
        names=FieldNames(_NAMES, tuple(transcript.places)),
        **more,
    )


def _plan_tools(body: CountMessageTokens) -> ToolPlan:
    """Raises InvalidRequest."""
    choice = body.tool_choice
    if not body.tools:
        if choice is not None and not isinstance(choice, NoChoice):
            raise invalid_value("tool_choice", "It is only allowed when 'tools' are given.")
        return NO_TOOLS
    known = tuple(_tool(tool, index) for index, tool in enumerate(body.tools))
    check_unique(known, "tools[{}].name")
    if choice is None:
        return offer(known, required=False, parallel=True, param="tools")
    if isinstance(choice, NoChoice):
        return NO_TOOLS
    if isinstance(choice, ForcedTool):
        check_known(known, choice.name, "tool_choice.name")
        return call_one(known, choice.name, param="tool_choice")
    return offer(
        known,
        required=choice.type == "any",
        parallel=not choice.disable_parallel_tool_use,
        param="tool_choice",
    )


def _tool(tool: AnyTool, index: int) -> Tool:
    place = f"tools[{index}]"
    if isinstance(tool, HostedTool):
        raise unsupported_value(
            f"{place}.type", f"'{tool.type[:64]}' is a hosted tool; this server runs none."
        )
    return make_tool(
        tool.name, tool.description, tool.input_schema, bool(tool.strict), f"{place}.input_schema"
    )
