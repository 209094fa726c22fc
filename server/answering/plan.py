"""Everything about a request for answers that can be decided before an engine sees it.

Whatever can be refused is refused here; what is left for the engine's admission is what only it
knows: the prompt's length in tokens, the adapter's files, whether a grammar compiles.
"""

from __future__ import annotations

import re

import msgspec

from server.answering.budget import ThoughtLimit
from server.answering.choice import ChoiceReader
from server.answering.constraint import SCHEMA_PARAM, Constraint, find_constraint
from server.answering.options import render_options
from server.answering.request import AnswerRequest
from server.answering.stops import StopStrings
from server.answering.tool_plan import ToolPlan
from server.auth import Principal
from server.engines.client import Work
from server.errors import INVALID_MEDIA, ApiError, InvalidRequest, unsupported_value
from server.generation.affinity import conversation_key
from server.generation.sampling import Guide, plan_sampling, seeded
from server.media import MediaLoader
from server.media.loading import check_kinds, media_parts
from server.media.problems import Problem
from server.media.prompt import prompt_parts
from server.models.catalog import Catalog, Served
from templates.conversation import Conversation, MediaPart
from templates.dialects import DIALECTS
from templates.dialects.base import arguments_of
from templates.dialects.scanning import PassThrough
from templates.format import ChatFormat, FormatError, Prompt
from workers.contract.parts import Sampling

_OPTION_FIELDS = frozenset(
    {
        "enable_thinking",
        "preserve_thinking",
        "reasoning_effort",
        "thinking_budget",
        "documents",
        "chat_template_kwargs",
    }
)
"""Fields whose value a chat format may be unable to honour."""


class AnswerPlan(msgspec.Struct, frozen=True):
    request: AnswerRequest
    served: Served
    chat_format: ChatFormat
    prompt: Prompt
    works: list[Work]
    """One for each answer."""
    limit: ThoughtLimit | None
    guide_param: str | None
    """The field that asked for the grammar, to be named if it does not compile."""
    media: tuple[MediaPart, ...] = ()
    stops: StopStrings | None = None
    """Those that the engine does not match."""

    @property
    def tools(self) -> ToolPlan:
        return self.request.tools

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
        return self.request.cache_key or conversation_key(self.request.messages)

    def reader(self) -> ChoiceReader:
        """For one of the answers."""
        return ChoiceReader(
            self.chat_format.parser(self.prompt, self.tools.tools),
            self.prompt.opens_reasoning,
            self.limit,
            self.stops,
            with_logprobs=self.request.logprobs is not None,
        )

    def name_error(self, error: ApiError) -> ApiError:
        if error.code == "invalid_json_schema" and self.guide_param is not None:
            error.param = self.guide_param
            if self.guide_param != SCHEMA_PARAM:
                error.code = "invalid_value"
        elif error.code == INVALID_MEDIA:
            kinds = [part.kind for part in self.media if part.place == error.param]
            error.code = Problem.PARSE.code(kinds[0]) if kinds else "invalid_value"
        return self.request.name_error(error)


async def plan_answer(
    request: AnswerRequest, principal: Principal, catalog: Catalog, loader: MediaLoader
) -> AnswerPlan:
    """Raises ApiError, in the words of the request's endpoint."""
    try:
        return await _plan(request, principal, catalog, loader)
    except ApiError as error:
        request.name_error(error)
        raise


async def _plan(
    request: AnswerRequest, principal: Principal, catalog: Catalog, loader: MediaLoader
) -> AnswerPlan:
    served = await catalog.serve(request.model, principal)
    chat_format = await catalog.chat_format(served, _tool_format(request))
    media = media_parts(request.messages)
    check_kinds(media, served.hello)
    options = render_options(request.options, served.defaults)
    conversation = Conversation(request.messages, request.tools.tools, options)
    constraint = find_constraint(request, chat_format, served.hello)
    try:
        prompt = chat_format.render(conversation)
        guide = None if constraint is None else constraint.guide(prompt)
        limit = await _thought_limit(catalog, served, chat_format, conversation, prompt, constraint)
    except FormatError as error:
        raise _from_format(error, request) from error
    sampling, stops = _sampling(request, served, chat_format, prompt)
    return AnswerPlan(
        request=request,
        served=served,
        chat_format=chat_format,
        prompt=prompt,
        stops=stops,
        works=_works(request, served, sampling, prompt, guide, await loader.load(media)),
        limit=limit,
        guide_param=guide.param if guide is not None else None,
        media=tuple(media),
    )


async def _thought_limit(
    catalog: Catalog,
    served: Served,
    chat_format: ChatFormat,
    conversation: Conversation,
    prompt: Prompt,
    constraint: Constraint | None,
) -> ThoughtLimit | None:
    budget = chat_format.thinking_budget(conversation)
    if budget is None:
        return None
    guide = None if constraint is None else constraint.guide(budget.spent(prompt))
    ending_ids = await catalog.control_ids(served, budget.ending)
    grammar = None if guide is None else guide.grammar
    return ThoughtLimit(budget.max_tokens, budget.ending, ending_ids, grammar)


def _sampling(
    request: AnswerRequest, served: Served, chat_format: ChatFormat, prompt: Prompt
) -> tuple[Sampling, StopStrings | None]:
    """For the engine, and the stop strings that it would match in more than the content."""
    sampling = plan_sampling(
        request.sampling,
        served.hello,
        served.defaults.sampling,
        max_tokens=request.max_tokens,
        logprobs=request.logprobs,
        stop_words=chat_format.stop_words,
        keeps_special_tokens=chat_format.keeps_special_tokens,
    )
    if not sampling.stop:
        return sampling, None
    if isinstance(chat_format.parser(prompt, request.tools.tools), PassThrough):
        return sampling, None
    stops = StopStrings(sampling.stop, request.stop_in_reasoning, sampling.min_tokens)
    return msgspec.structs.replace(sampling, stop=[]), stops


def _works(
    request: AnswerRequest,
    served: Served,
    sampling: Sampling,
    prompt: Prompt,
    guide: Guide | None,
    media: dict[MediaPart, bytes],
) -> list[Work]:
    parts = prompt_parts(prompt, media)
    grammar = guide.grammar if guide is not None else None
    adapter = served.adapter
    if request.num_answers == 1:
        return [Work(parts, sampling, adapter, grammar)]
    return [
        Work(parts, seeded(sampling, index), adapter, grammar)
        for index in range(request.num_answers)
    ]


def _tool_format(request: AnswerRequest) -> str | None:
    name = request.tool_format
    if name is not None and name not in DIALECTS:
        raise unsupported_value("tool_format", f"It must be one of: {', '.join(DIALECTS)}.")
    return name


def _from_format(error: FormatError, request: AnswerRequest) -> InvalidRequest:
    param = re.sub(r"^messages\.(\d+)", r"messages[\1]", error.param or "messages")
    if param == "messages":
        param = _wrong_arguments(request) or param
    if param in _OPTION_FIELDS:
        return unsupported_value(param, str(error))
    return InvalidRequest(str(error), param=param, code="invalid_value")


def _wrong_arguments(request: AnswerRequest) -> str | None:
    """Where the first past call is whose arguments are no JSON object."""
    for index, message in enumerate(request.messages):
        for number, call in enumerate(message.tool_calls):
            try:
                arguments_of(call)
            except FormatError:
                return f"messages[{index}].tool_calls[{number}].function.arguments"
    return None
