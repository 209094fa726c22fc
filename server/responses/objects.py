"""The response object. Every field that Open Responses asks for is always there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server.answering.plan import AnswerPlan
from server.errors import ApiError, InvalidRequest, RateLimited
from server.responses.schemas import CreateResponse, ReasoningSettings, TextSettings
from server.responses.tools import FlatTool
from server.usage import Tally


def response_fields(
    body: CreateResponse, plan: AnswerPlan, response_id: str, created_at: int, stored: bool
) -> dict[str, Any]:
    """The response as it begins."""
    sampling = plan.works[0].sampling
    reasoning = body.reasoning or ReasoningSettings()
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "background": bool(body.background),
        "conversation": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": stored,
        "temperature": sampling.temperature,
        "text": {"format": _format(body.text), "verbosity": "medium"},
        "tool_choice": _choice(body),
        "tools": [_tool(tool) for tool in body.tools or () if isinstance(tool, FlatTool)],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": sampling.top_p if body.top_p is None else body.top_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
        "metadata": body.metadata or {},
    }


def usage_fields(tally: Tally) -> dict[str, Any]:
    return {
        "input_tokens": tally.prompt_tokens,
        "input_tokens_details": {"cached_tokens": tally.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": tally.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": tally.reasoning_tokens},
        "total_tokens": tally.prompt_tokens + tally.completion_tokens,
    }


def failed_response(
    fields: Mapping[str, Any], error: ApiError, output: Sequence[Any]
) -> dict[str, Any]:
    """The response with these `fields`, as it ends by this error."""
    return {
        **fields,
        "status": "failed",
        "error": failure_fields(error),
        "output": output,
    }


def failure_fields(error: ApiError) -> dict[str, str]:
    """`error` of a response; its codes are few."""
    code = "server_error"
    if isinstance(error, RateLimited):
        code = "rate_limit_exceeded"
    elif isinstance(error, InvalidRequest):
        code = "invalid_prompt"
    return {"code": code, "message": error.message}


def _format(text: TextSettings | None) -> dict[str, Any]:
    if text is None or text.format is None:
        return {"type": "text"}
    return text.format.model_dump(by_alias=True, exclude_unset=True)


def _choice(body: CreateResponse) -> Any:
    choice = body.tool_choice
    if choice is None or isinstance(choice, str):
        return choice or "auto"
    return choice.model_dump(exclude_none=True)


def _tool(tool: FlatTool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.is_strict,
    }
