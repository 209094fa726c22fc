"""`/v1/responses` over HTTP, but for creating one: kept responses, and counting tokens."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from server.auth import Caller
from server.bodies import json_of
from server.errors import InvalidRequest, NotFound, invalid_value, unsupported_parameter
from server.openapi import json_body, refusals
from server.query import refuse_unknown
from server.responses.answer_schemas import (
    InputItemList,
    InputTokens,
    ResponseDeleted,
    ResponseObject,
)
from server.responses.counting import count_tokens
from server.responses.endpoint import ResponseServices
from server.responses.planning import load_context, plan_as_asked
from server.responses.schemas import CountTokens
from server.responses.translation import read_count
from server.store.responses import StoredResponse

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
    response_id: str, caller: Caller, services: Services, stream: bool = False
) -> Response:
    """A kept response, as its creation answered."""
    if stream:
        raise unsupported_parameter("stream", "Events are sent once, when a response is created.")
    kept = await _find(services, caller.project.id, response_id)
    return Response(kept.body, media_type="application/json")


@router.delete("/{response_id}", summary="Delete a response", responses=refusals(507))
async def delete_response(response_id: str, caller: Caller, services: Services) -> ResponseDeleted:
    """Responses that went on from it cannot be gone on from any more."""
    if not await services.store.responses.delete(caller.project.id, response_id):
        raise _no_such_response(response_id)
    return ResponseDeleted(id=response_id)


@router.post("/{response_id}/cancel", response_model=ResponseObject, summary="Cancel a response")
async def cancel_response(response_id: str, caller: Caller, services: Services) -> Response:
    """Only background responses could be, and there are none; to end another, hang up."""
    await _find(services, caller.project.id, response_id)
    raise InvalidRequest(
        "Cannot cancel a synchronous response.", param="response_id", code="invalid_value"
    )


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
    begin = 0
    if after is not None:
        begin = next((n + 1 for n, item in enumerate(items) if item["id"] == after), -1)
        if begin < 0:
            raise invalid_value("after", f"There is no '{after[:128]}' in this list.")
    page = items[begin : begin + limit]
    return InputItemList(
        data=page,
        first_id=page[0]["id"] if page else None,
        last_id=page[-1]["id"] if page else None,
        has_more=begin + limit < len(items),
    )


async def _find(services: ResponseServices, project_id: str, response_id: str) -> StoredResponse:
    kept = await services.store.responses.find(project_id, response_id)
    if kept is None:
        raise _no_such_response(response_id)
    return kept


def _no_such_response(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:128]}' not found.", param="response_id")
