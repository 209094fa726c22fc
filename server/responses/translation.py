"""From a response request to what planning takes, in the words of templates."""

from __future__ import annotations

from typing import Any

from server.answering.constraint import check_schema
from server.answering.request import AnswerRequest, FieldNames
from server.chat.schemas import JsonObjectFormat
from server.errors import (
    invalid_value,
    missing_parameter,
    unsupported_parameter,
    unsupported_value,
)
from server.generation.wire_fields import read_guide, read_sampling
from server.responses.context import Context
from server.responses.conversation import Transcript
from server.responses.schemas import (
    ContextFields,
    CountTokens,
    CreateResponse,
    ReasoningSettings,
    SchemaFormat,
)
from server.responses.tools import plan_tools
from templates.conversation import RenderOptions, Role

LOGPROBS = "message.output_text.logprobs"
THOUGHTS = "reasoning.encrypted_content"
_NOT_OFFERED = ("prompt", "moderation", "context_management", "personality")
_NAMES = {
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "preserve_thinking": "reasoning.context",
    "max_tokens": "max_output_tokens",
    "logprobs": "include",
}
_CONTEXTS = {None: None, "auto": None, "current_turn": False, "all_turns": True}


def refuse_unsupported(body: CreateResponse | CountTokens) -> None:
    """What can be told from the body alone. Raises InvalidRequest."""
    for name in _NOT_OFFERED:
        if getattr(body, name, None) is not None:
            raise unsupported_parameter(name, "This server does not offer it.")
    if body.conversation is not None:
        raise unsupported_parameter(
            "conversation", "Use 'previous_response_id', or send the items so far."
        )
    if body.text is not None and body.text.verbosity not in (None, "medium"):
        raise unsupported_value("text.verbosity", "This model knows the verbosity 'medium' only.")
    _refuse_reasoning(body.reasoning or ReasoningSettings())
    if isinstance(body, CreateResponse):
        _refuse_for_answer(body)


def _refuse_reasoning(reasoning: ReasoningSettings) -> None:
    for name in ("summary", "generate_summary"):
        if getattr(reasoning, name) not in (None, "auto"):
            raise unsupported_value(
                f"reasoning.{name}", "Reasoning is shown whole; it is not summarised."
            )
    if reasoning.mode not in (None, "standard"):
        raise unsupported_value("reasoning.mode", "It must be 'standard'.")


def _refuse_for_answer(body: CreateResponse) -> None:
    if body.background and body.store is False:
        raise invalid_value("background", "A background response needs 'store' to be true.")
    if body.n not in (None, 1):
        raise unsupported_parameter("n", "A response is one answer.")
    if body.top_logprobs and LOGPROBS not in (body.include or ()):
        raise invalid_value("top_logprobs", f"It is only allowed with '{LOGPROBS}' in 'include'.")
    if body.stream_options is not None and not body.stream:
        raise invalid_value("stream_options", "It is only allowed when 'stream' is true.")


def read_response(body: CreateResponse, context: Context) -> AnswerRequest:
    """Raises InvalidRequest."""
    logprobs = None
    if LOGPROBS in (body.include or ()):
        logprobs = body.top_logprobs or 0
    return _read(
        body,
        context,
        RenderOptions(
            enable_thinking=body.enable_thinking,
            thinking_budget=body.thinking_budget,
            **_asked_thinking(body),
        ),
        guide=read_guide(body),
        sampling=read_sampling(body),
        max_tokens=body.max_output_tokens,
        logprobs=logprobs,
        cache_key=body.prompt_cache_key,
    )


def read_count(body: CountTokens, context: Context) -> AnswerRequest:
    """Raises InvalidRequest."""
    return _read(body, context, RenderOptions(**_asked_thinking(body)))


def _asked_thinking(body: ContextFields) -> dict[str, Any]:
    asked = body.reasoning or ReasoningSettings()
    return {
        "reasoning_effort": asked.effort,
        "preserve_thinking": _CONTEXTS[asked.context],
    }


def _read(
    body: CreateResponse | CountTokens, context: Context, options: RenderOptions, **more: Any
) -> AnswerRequest:
    transcript = _transcribe(body, context)
    return AnswerRequest(
        model=body.model,
        messages=tuple(transcript.messages),
        tools=plan_tools(body.tools or (), body.tool_choice, body.parallel_tool_calls),
        options=options,
        schema=_schema(body),
        names=FieldNames(_NAMES, tuple(transcript.places), transcript.calls),
        **more,
    )


def _transcribe(body: ContextFields, context: Context) -> Transcript:
    transcript = Transcript()
    if body.instructions is not None:
        transcript.say(Role.SYSTEM, body.instructions, "instructions")
    for item in context.earlier:
        transcript.add(item, "previous_response_id")
    if isinstance(context.own, str):
        transcript.say(Role.USER, context.own, "input")
    else:
        for index, item in enumerate(context.own):
            transcript.add(item, f"input[{index}]")
    transcript.end_turn()
    if not transcript.messages:
        raise missing_parameter("input")
    return transcript


def _schema(body: ContextFields) -> dict[str, Any] | None:
    """Raises InvalidRequest."""
    wanted = None if body.text is None else body.text.format
    if isinstance(wanted, SchemaFormat):
        strict = bool(wanted.strict)
        check_schema(wanted.schema_, wanted.name, strict=strict, param="text.format")
        return wanted.schema_
    return {"type": "object"} if isinstance(wanted, JsonObjectFormat) else None
