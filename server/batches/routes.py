"""`/v1/batches` over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response

from server.auth import Caller
from server.batches.schemas import BatchList, BatchObject, CreateBatch
from server.batches.service import ROUTE, BatchService
from server.bodies import json_of
from server.idempotency import idempotent_call
from server.openapi import json_body, refusals
from server.paging import no_such_cursor
from server.rows import Rows
from server.store.cursors import UnknownCursorError

router = APIRouter(prefix="/v1/batches", tags=["Batches"])

MAX_PAGE = 100


def _service_of(request: Request) -> BatchService:
    service: BatchService = request.app.services.batches
    return service


Service = Annotated[BatchService, Depends(_service_of)]


@router.post(
    "",
    response_model=BatchObject,
    openapi_extra=json_body(CreateBatch),
    summary="Create a batch",
    responses=refusals(409, 429, 507),
)
async def create_batch(
    wanted: Annotated[CreateBatch, json_of(CreateBatch)],
    caller: Caller,
    service: Service,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Run the requests of an uploaded file on what capacity others leave. With an
    `Idempotency-Key`, a repeat within 24 hours gets the first answer and starts nothing."""
    call = idempotent_call(
        caller.project.id, ROUTE, idempotency_key, wanted.model_dump_json(exclude_unset=True)
    )
    return Response(await service.create(caller, wanted, call), media_type="application/json")


@router.get("", summary="List batches")
async def list_batches(
    caller: Caller,
    rows: Rows,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
) -> BatchList:
    """List batches, newest first."""
    try:
        page = await rows.batches.page(caller.project.id, after=after, limit=limit)
    except UnknownCursorError as error:
        raise no_such_cursor(error) from None
    return BatchList.of([BatchObject.of(b) for b in page.items], has_more=page.has_more)


@router.get("/{batch_id}", summary="Retrieve a batch")
async def retrieve_batch(batch_id: str, caller: Caller, service: Service) -> BatchObject:
    """With its `request_counts` as of a second ago."""
    return BatchObject.of(await service.find(caller.project.id, batch_id))


@router.post("/{batch_id}/cancel", summary="Cancel a batch", responses=refusals(507))
async def cancel_batch(batch_id: str, caller: Caller, service: Service) -> BatchObject:
    """Begin no more requests of it. The output file has what was answered until then."""
    return BatchObject.of(await service.cancel(caller.project.id, batch_id))
