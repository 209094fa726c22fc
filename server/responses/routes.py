"""`/v1/responses` over HTTP, but for creating one: kept responses, and counting tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from operator import itemgetter
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response, StreamingResponse

from server.auth import Caller
from server.bodies import json_of
from server.errors import InvalidRequest, NotFound, invalid_value, unsupported_parameter
from server.openapi import json_body, refusals
from server.paging import cut
from server.query import refuse_unknown
from server.responses.answer_schemas import (
    InputItemList,
    InputTokens,
    ResponseDeleted,
    ResponseObject,
)
from server.responses.counting import count_tokens
from server.responses.endpoint import ResponseServices
from server.responses.event_log import EventLog, events_gone
from server.responses.planning import load_context, plan_as_asked
from server.responses.schemas import CountTokens
from server.responses.translation import read_count
from server.sse import KEEP_ALIVE, SSE_HEADERS
from server.store.responses import UNFINISHED, StoredResponse

router = APIRouter(prefix="/v1/responses", tags=["Responses"])


def _services_of(request: Request) -> ResponseServices:
    services: ResponseServices = request.app.services
    return services


Services = Annotated[ResponseServices, Depends(_services_of)]


@router.post(
    "/input_tokens",
    openapi_extra=json_body(CountTokens),
    summary="Count a request's tokens",
    responses=refusals(404),
)
async def count_input_tokens(
    wanted: Annotated[CountTokens, json_of(CountTokens)], caller: Caller, services: Services
) -> InputTokens:
    """How many tokens the model would be given; where they are truncated, of what is left."""
    context = await load_context(wanted, caller, services)
    plan = await plan_as_asked(wanted, read_count(wanted, context), caller, services)
    with services.runner.room(caller, 1):
        return InputTokens(input_tokens=await count_tokens(services.pool, plan, "input"))


@router.get(
    "/{response_id}",
    response_model=ResponseObject,
    summary="Retrieve a response",
    dependencies=[Depends(refuse_unknown)],
)
async def retrieve_response(
    response_id: str,
    caller: Caller,
    services: Services,
    stream: bool = False,
    starting_after: Annotated[int | None, Query(ge=0)] = None,
) -> Response:
    """A kept response as it is now; with `stream`, the events of one in the background, after that
    with the number `starting_after`."""
    kept = await _find(services, caller.project.id, response_id)
    if stream:
        return _stream_events(services, kept, 0 if starting_after is None else starting_after + 1)
    if starting_after is not None:
        raise invalid_value("starting_after", "It is only allowed when 'stream' is true.")
    return Response(kept.body, media_type="application/json")


@router.delete("/{response_id}", summary="Delete a response", responses=refusals(507))
async def delete_response(response_id: str, caller: Caller, services: Services) -> ResponseDeleted:
    """Responses that went on from it cannot be gone on from any more."""
    if not await services.store.responses.delete(caller.project.id, response_id):
        raise _no_such_response(response_id)
    services.background.abandon(response_id)
    return ResponseDeleted(id=response_id)


@router.post(
    "/{response_id}/cancel",
    response_model=ResponseObject,
    summary="Cancel a response",
    responses=refusals(507),
)
async def cancel_response(response_id: str, caller: Caller, services: Services) -> Response:
    """Ends a background response that is under way; one that has ended is answered as it is."""
    kept = await _find(services, caller.project.id, response_id)
    if not _is_background(kept):
        raise InvalidRequest(
            "Cannot cancel a synchronous response.", param="response_id", code="invalid_value"
        )
    if kept.status in UNFINISHED:
        await services.background.cancel(caller.project.id, response_id)
        kept = await _find(services, caller.project.id, response_id)
    return Response(kept.body, media_type="application/json")


@router.get(
    "/{response_id}/input_items",
    summary="List a response's input items",
    dependencies=[Depends(refuse_unknown)],
)
async def list_input_items(
    response_id: str,
    caller: Caller,
    services: Services,
    after: Annotated[str | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> InputItemList:
    """The items of its own request; those of responses before it are theirs."""
    kept = await _find(services, caller.project.id, response_id)
    items: list[dict[str, Any]] = msgspec.json.decode(kept.input)
    if order == "desc":
        items.reverse()
    page, has_more = cut(items, itemgetter("id"), after=after, limit=limit)
    return InputItemList(
        data=[*page],
        first_id=page[0]["id"] if page else None,
        last_id=page[-1]["id"] if page else None,
        has_more=has_more,
    )


async def _find(services: ResponseServices, project_id: str, response_id: str) -> StoredResponse:
    kept = await services.store.responses.find(project_id, response_id)
    if kept is None:
        raise _no_such_response(response_id)
    return kept


def _no_such_response(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:128]}' not found.", param="response_id")


class _Background(msgspec.Struct):
    background: bool = False


def _is_background(kept: StoredResponse) -> bool:
    return msgspec.json.decode(kept.body, type=_Background).background


def _stream_events(services: ResponseServices, kept: StoredResponse, number: int) -> Response:
    """Raises InvalidRequest if they are not here."""
    if not _is_background(kept):
        raise unsupported_parameter(
            "stream", "Events of a response that is not in the background are sent once."
        )
    log = services.background.logs.find(kept.id)
    if log is None:
        raise events_gone()
    log.check(number)
    headers = {name.decode(): value.decode() for name, value in SSE_HEADERS}
    events = _with_signs_of_life(log, number, services.limits.keep_alive_s)
    return StreamingResponse(events, headers=headers)


async def _with_signs_of_life(
    log: EventLog, number: int, max_silence_s: float
) -> AsyncGenerator[bytes]:
    following = log.follow(number)
    coming = asyncio.ensure_future(anext(following, None))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=max_silence_s)
            if not done:
                yield KEEP_ALIVE
                continue
            taken = coming.result()
            if taken is None:
                return
            if taken[0]:
                yield taken[0]
            coming = asyncio.ensure_future(anext(following, None))
    finally:
        coming.cancel()
