"""How many tokens a request's prompt has, and which of its messages fit into the context."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from server.answering.plan import AnswerPlan
from server.answering.request import AnswerRequest, FieldNames
from server.engines.pool import EnginePool
from server.errors import Unavailable, unsupported_value
from templates.conversation import Role
from workers.contract.messages import Tokenize, Tokenized
from workers.contract.parts import Media, PromptPart

_LEAST_OUTPUT = 16
"""Tokens that an answer has room for where the request sets no `max_output_tokens`."""

PlanRequest = Callable[[AnswerRequest], Awaitable[AnswerPlan]]


async def count_tokens(pool: EnginePool, plan: AnswerPlan, param: str) -> int:
    """`param` is named where the prompt holds media, which engines expand only as they run it.
    Raises ApiError."""
    parts: list[PromptPart] = []
    for part in plan.works[0].prompt:
        if isinstance(part, Media):
            raise unsupported_value(param, "Tokens of pictures and sound cannot be counted.")
        parts.append(part)
    connection = await pool.ready(plan.engine_model)
    pool.check_room(plan.engine_model, 1)
    event = await connection.ask(lambda number: Tokenize(number, parts))
    if not isinstance(event, Tokenized):
        raise Unavailable("The engine of this model stopped. Please retry.")
    return len(event.ids)


async def plan_truncated(
    request: AnswerRequest, plan_request: PlanRequest, pool: EnginePool
) -> AnswerPlan:
    """`truncation: auto`: the oldest turns are left out, as few as make the rest fit. A turn begins
    with what a user says; instructions stay. Raises ApiError."""

    async def fits(plan: AnswerPlan) -> bool:
        room = plan.served.hello.max_model_len - (request.max_tokens or _LEAST_OUTPUT)
        return await count_tokens(pool, plan, "truncation") <= room

    plan = await plan_request(request)
    if await fits(plan):
        return plan
    begin, starts = _turns(request)
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        if await fits(await plan_request(_without(request, begin, starts[middle]))):
            high = middle
        else:
            low = middle + 1
    return await plan_request(_without(request, begin, starts[low])) if starts else plan


def _turns(request: AnswerRequest) -> tuple[int, list[int]]:
    """Where the conversation begins behind its instructions, and where each later turn does."""
    messages = request.messages
    begin = 0
    while begin < len(messages) and messages[begin].role in (Role.SYSTEM, Role.DEVELOPER):
        begin += 1
    later = range(begin + 1, len(messages))
    return begin, [index for index in later if messages[index].role is Role.USER]


def _without(request: AnswerRequest, begin: int, end: int) -> AnswerRequest:
    """The request without the messages from `begin` to `end`."""
    names = request.names
    left_out = end - begin
    calls = {
        (message - left_out if message >= end else message, number): place
        for (message, number), place in names.calls.items()
        if not begin <= message < end
    }
    places = names.messages or ()
    return msgspec.structs.replace(
        request,
        messages=request.messages[:begin] + request.messages[end:],
        names=FieldNames(names.renamed, places[:begin] + places[end:], calls),
    )
