"""From a chat completion request to what planning takes, in the words of templates."""

from __future__ import annotations

from typing import Any

from server.answering.constraint import SCHEMA_PARAM, check_schema
from server.answering.request import AnswerRequest, FieldNames
from server.answering.tool_plan import NO_TOOLS, ToolPlan
from server.chat.conversation import read_messages
from server.chat.options import read_options
from server.chat.schemas import ChatCompletionRequest, JsonObjectFormat, JsonSchemaFormat
from server.chat.tools import plan_functions, plan_tools
from server.errors import invalid_value, unsupported_parameter, unsupported_value
from server.generation.wire_fields import read_guide, read_sampling

_PLAIN_FIELDS = frozenset({"model", "messages", "stream", "n", "temperature", "top_p", "seed"})
"""Fields that are no reason to look at most others, whatever they hold."""
_TOOL_FIELDS = frozenset(
    {"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"}
)
_BINDING_FIELDS = frozenset(
    {
        "response_format",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
    }
)
_TEMPLATE_NAMES = {"preserve_thinking": "chat_template_kwargs.preserve_thinking"}
_NAMES = FieldNames(_TEMPLATE_NAMES)
_NAMES_WITHOUT_SWITCH = FieldNames(
    {**_TEMPLATE_NAMES, "enable_thinking": "chat_template_kwargs.enable_thinking"}
)
"""Of a request without `enable_thinking` itself."""


def read_chat(body: ChatCompletionRequest) -> AnswerRequest:
    """Raises InvalidRequest."""
    asked = body.model_fields_set
    if asked <= _PLAIN_FIELDS:
        return AnswerRequest(
            model=body.model,
            messages=read_messages(body.messages),
            sampling=read_sampling(body),
            num_answers=body.n or 1,
            names=_NAMES_WITHOUT_SWITCH,
        )
    _refuse_unsupported(body)
    tools = NO_TOOLS if asked.isdisjoint(_TOOL_FIELDS) else _plan_tools(body)
    messages = read_messages(body.messages)
    is_bound = not asked.isdisjoint(_BINDING_FIELDS)
    limit = body.max_completion_tokens
    return AnswerRequest(
        model=body.model,
        messages=messages,
        tools=tools,
        tool_format=body.tool_format,
        options=read_options(body, messages),
        schema=_schema(body) if is_bound else None,
        guide=read_guide(body) if is_bound else None,
        sampling=read_sampling(body),
        max_tokens=body.max_tokens if limit is None else limit,
        num_answers=body.n or 1,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        stop_in_reasoning=bool(body.stop_in_reasoning),
        cache_key=body.prompt_cache_key,
        names=_NAMES_WITHOUT_SWITCH if body.enable_thinking is None else _NAMES,
    )


def _refuse_unsupported(body: ChatCompletionRequest) -> None:
    for name in ("audio", "web_search_options", "moderation"):
        if getattr(body, name) is not None:
            raise unsupported_parameter(name, "This server does not offer it.")
    if body.modalities is not None and "audio" in body.modalities:
        raise unsupported_value("modalities", "This model answers in text only.")
    if body.verbosity not in (None, "medium"):
        raise unsupported_value("verbosity", "This model knows the verbosity 'medium' only.")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise invalid_value(
            "max_tokens", "'max_tokens' and 'max_completion_tokens' cannot both be set."
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid_value("top_logprobs", "It is only allowed when 'logprobs' is true.")
    if body.stream_options is not None and not body.stream:
        raise invalid_value("stream_options", "It is only allowed when 'stream' is true.")


def _plan_tools(body: ChatCompletionRequest) -> ToolPlan:
    if body.functions is None:
        if body.function_call is not None:
            raise invalid_value("function_call", "It is only allowed when 'functions' are given.")
        return plan_tools(body.tools, body.tool_choice, body.parallel_tool_calls)
    if body.tools is not None:
        raise invalid_value("functions", "'functions' and 'tools' cannot both be given.")
    return plan_functions(body.functions, body.function_call)


def _schema(body: ChatCompletionRequest) -> dict[str, Any] | None:
    """A `json_object` may be asked for without the word JSON in the messages, which OpenAI wants:
    the grammar makes the answer one. Raises InvalidRequest."""
    wanted = body.response_format
    if isinstance(wanted, JsonSchemaFormat):
        given = wanted.json_schema
        check_schema(given.schema_, given.name, strict=bool(given.strict), param=SCHEMA_PARAM)
        return given.schema_
    if isinstance(wanted, JsonObjectFormat):
        return {"type": "object"}
    return None
