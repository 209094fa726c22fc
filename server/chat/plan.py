"""Everything about a chat request that can be decided before an engine sees it.

Whatever can be refused is refused here; what is left for the engine's admission is what only it
knows: the prompt's length in tokens, the adapter's files, whether a grammar compiles.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from server.auth import Principal
from server.chat.budget import ThoughtLimit
from server.chat.choice import ChoiceReader
from server.chat.constraint import Constraint, asked_schema
from server.chat.conversation import read_messages, wrong_arguments
from server.chat.options import render_options
from server.chat.schemas import ChatCompletionRequest
from server.chat.stops import StopStrings
from server.chat.tools import NO_TOOLS, ToolPlan, plan_functions, plan_tools
from server.engines.client import Work
from server.errors import (
    INVALID_MEDIA,
    ApiError,
    InvalidRequest,
    invalid_value,
    unsupported_parameter,
    unsupported_value,
)
from server.generation.affinity import conversation_key
from server.generation.sampling import Guide, plan_sampling, seeded
from server.media import MediaLoader
from server.media.loading import check_kinds, media_parts
from server.media.problems import Problem
from server.media.prompt import prompt_parts
from server.models.catalog import Catalog, Served
from templates.conversation import ChatMessage, Conversation, MediaPart
from templates.dialects import DIALECTS
from templates.dialects.scanning import PassThrough
from templates.format import (
    ChatFormat,
    FormatError,
    Prompt,
)
from workers.contract.parts import Sampling

_OPTION_FIELDS = frozenset(
    {
        "enable_thinking",
        "reasoning_effort",
        "thinking_budget",
        "documents",
        "chat_template_kwargs",
    }
)
"""Fields whose value a chat format may be unable to honour."""
_TOOL_FIELDS = frozenset(
    {"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"}
)
_CONSTRAINING_FIELDS = _TOOL_FIELDS | {
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
}
_PLAIN_FIELDS = frozenset({"model", "messages", "stream", "n", "temperature", "top_p", "seed"})
"""Fields that are no reason for `_refuse_unsupported`, whatever they hold."""


class ChatPlan(msgspec.Struct, frozen=True):
    request: ChatCompletionRequest
    served: Served
    chat_format: ChatFormat
    prompt: Prompt
    tools: ToolPlan
    works: list[Work]
    limit: ThoughtLimit | None
    guide_param: str | None
    """The field that asked for the grammar, to be named if it does not compile."""
    media: tuple[MediaPart, ...] = ()
    stops: StopStrings | None = None
    """Those that the engine does not match."""

    @property
    def ends_early(self) -> bool:
        """Whether an answer may have to be ended before the engine does."""
        return self.limit is not None or self.stops is not None

    @property
    def engine_model(self) -> str:
        return self.served.model.engine_model

    @property
    def base_model(self) -> str:
        return self.served.model.base

    @property
    def affinity(self) -> str | None:
        return self.request.prompt_cache_key or conversation_key(self.request.messages)

    def reader(self) -> ChoiceReader:
        """For one of the answers."""
        return ChoiceReader(
            self.chat_format.parser(self.prompt, self.tools.tools),
            self.prompt.opens_reasoning,
            self.limit,
            self.stops,
            with_logprobs=bool(self.request.logprobs),
        )

    def name_error(self, error: ApiError) -> ApiError:
        if error.code == "invalid_json_schema" and self.guide_param is not None:
            error.param = self.guide_param
            if not self.guide_param.startswith("response_format"):
                error.code = "invalid_value"
        elif error.code == INVALID_MEDIA:
            kinds = [part.kind for part in self.media if part.place == error.param]
            error.code = Problem.PARSE.code(kinds[0]) if kinds else "invalid_value"
        return error


async def plan_chat(
    request: ChatCompletionRequest, principal: Principal, catalog: Catalog, loader: MediaLoader
) -> ChatPlan:
    """Raises ApiError."""
    asked = request.model_fields_set
    if not asked <= _PLAIN_FIELDS:
        _refuse_unsupported(request)
    served = await catalog.serve(request.model, principal.project.id)
    chat_format = await catalog.chat_format(served, _tool_format(request))
    tools = NO_TOOLS if asked.isdisjoint(_TOOL_FIELDS) else _plan_tools(request)
    messages = read_messages(request.messages)
    media = media_parts(messages)
    check_kinds(media, served.hello)
    options = render_options(request, messages, served.defaults)
    conversation = Conversation(messages, tools.tools, options)
    constraint = None
    if not asked.isdisjoint(_CONSTRAINING_FIELDS):
        schema = asked_schema(request)
        constraint = Constraint(request, chat_format, tools, schema, served.hello)
    try:
        prompt = chat_format.render(conversation)
        budget = chat_format.thinking_budget(conversation)
        guide = None if constraint is None else constraint.guide(prompt)
        limit = None
        if budget is not None:
            grammar = None
            if constraint is not None:
                answer_guide = constraint.guide(budget.spent(prompt))
                grammar = None if answer_guide is None else answer_guide.grammar
            ending_ids = await catalog.control_ids(served, budget.ending)
            limit = ThoughtLimit(budget.max_tokens, budget.ending, ending_ids, grammar)
    except FormatError as error:
        raise _from_format(error, request, messages) from error
    sampling, stops = _sampling(request, served, chat_format, prompt, tools)
    return ChatPlan(
        request=request,
        served=served,
        chat_format=chat_format,
        prompt=prompt,
        tools=tools,
        stops=stops,
        works=_works(request, served, sampling, prompt, guide, await loader.load(media)),
        limit=limit,
        guide_param=guide.param if guide is not None else None,
        media=tuple(media),
    )


def _sampling(
    request: ChatCompletionRequest,
    served: Served,
    chat_format: ChatFormat,
    prompt: Prompt,
    tools: ToolPlan,
) -> tuple[Sampling, StopStrings | None]:
    """For the engine, and the stop strings that it would match in more than the content."""
    limit = request.max_completion_tokens
    sampling = plan_sampling(
        request,
        served.hello,
        served.defaults.sampling,
        max_tokens=request.max_tokens if limit is None else limit,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        stop_words=chat_format.stop_words,
        keeps_special_tokens=chat_format.keeps_special_tokens,
    )
    if not sampling.stop or isinstance(chat_format.parser(prompt, tools.tools), PassThrough):
        return sampling, None
    stops = StopStrings(sampling.stop, bool(request.stop_in_reasoning), sampling.min_tokens)
    return msgspec.structs.replace(sampling, stop=[]), stops


def _works(
    request: ChatCompletionRequest,
    served: Served,
    sampling: Sampling,
    prompt: Prompt,
    guide: Guide | None,
    media: dict[MediaPart, bytes],
) -> list[Work]:
    parts = prompt_parts(prompt, media)
    grammar = guide.grammar if guide is not None else None
    adapter = served.adapter
    if request.n is None or request.n == 1:
        return [Work(parts, sampling, adapter, grammar)]
    return [Work(parts, seeded(sampling, index), adapter, grammar) for index in range(request.n)]


def _refuse_unsupported(request: ChatCompletionRequest) -> None:
    for name in ("audio", "web_search_options", "moderation"):
        if getattr(request, name) is not None:
            raise unsupported_parameter(name, "This server does not offer it.")
    if request.store:
        raise unsupported_parameter("store", "This server does not store chat completions.")
    if request.modalities is not None and "audio" in request.modalities:
        raise unsupported_value("modalities", "This model answers in text only.")
    if request.verbosity not in (None, "medium"):
        raise unsupported_value("verbosity", "This model knows the verbosity 'medium' only.")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise invalid_value(
            "max_tokens", "'max_tokens' and 'max_completion_tokens' cannot both be set."
        )
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid_value("top_logprobs", "It is only allowed when 'logprobs' is true.")
    if request.stream_options is not None and not request.stream:
        raise invalid_value("stream_options", "It is only allowed when 'stream' is true.")


def _plan_tools(request: ChatCompletionRequest) -> ToolPlan:
    if request.functions is None:
        if request.function_call is not None:
            raise invalid_value("function_call", "It is only allowed when 'functions' are given.")
        return plan_tools(request.tools, request.tool_choice, request.parallel_tool_calls)
    if request.tools is not None:
        raise invalid_value("functions", "'functions' and 'tools' cannot both be given.")
    return plan_functions(request.functions, request.function_call)


def _tool_format(request: ChatCompletionRequest) -> str | None:
    name = request.tool_format
    if name is not None and name not in DIALECTS:
        raise unsupported_value("tool_format", f"It must be one of: {', '.join(DIALECTS)}.")
    return name


def _from_format(
    error: FormatError, request: ChatCompletionRequest, messages: Sequence[ChatMessage]
) -> InvalidRequest:
    param = re.sub(r"^messages\.(\d+)", r"messages[\1]", error.param or "messages")
    if param == "messages":
        param = wrong_arguments(messages) or param
    if param == "preserve_thinking" or (
        param == "enable_thinking" and request.enable_thinking is None
    ):
        return unsupported_value(f"chat_template_kwargs.{param}", str(error))
    if param in _OPTION_FIELDS:
        return unsupported_value(param, str(error))
    return InvalidRequest(str(error), param=param, code="invalid_value")
