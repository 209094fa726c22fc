"""`/v1/fine_tuning/jobs` over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response

from server.auth import Caller
from server.errors import InvalidRequest, invalid_value, unknown_parameter
from server.fine_tuning.dataset import nearest_name
from server.fine_tuning.feed import event_feed
from server.fine_tuning.hyperparameters import advice
from server.fine_tuning.schemas import (
    CheckpointList,
    CheckpointObject,
    CreateJob,
    EventList,
    EventObject,
    JobList,
    JobObject,
)
from server.fine_tuning.service import ROUTE, JobService, no_such_job
from server.idempotency import idempotent_call
from server.openapi import json_body, refusals
from server.paging import no_such_cursor
from server.query import metadata_filter
from server.rows import Rows
from server.store.cursors import UnknownCursorError
from server.validation import read_body

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning"])

MAX_PAGE = 100
_MAX_NAME_CHARS = 64
"""Of a parameter that is not there, in what is said of it."""


def _service_of(request: Request) -> JobService:
    service: JobService = request.app.services.jobs
    return service


Service = Annotated[JobService, Depends(_service_of)]
After = Annotated[str | None, Query()]


async def _body_of(request: Request) -> CreateJob:
    """As generating requests are read: whatever its content type says, by the same rules."""
    try:
        return await read_body(CreateJob, await request.body())
    except InvalidRequest as error:
        raise _with_advice(error) from None


def _with_advice(error: InvalidRequest) -> InvalidRequest:
    """A parameter that is not there, with the one that was meant."""
    if error.code != "unknown_parameter":
        return error
    where, dot, name = (error.param or "").rpartition(".")
    name = name[:_MAX_NAME_CHARS]
    told = advice(name) if where.endswith("hyperparameters") else nearest_name(where, name)
    unknown = unknown_parameter(f"{where}{dot}{name}")
    if told is None:
        return unknown
    return InvalidRequest(f"{unknown.message} {told}", param=unknown.param, code=unknown.code)


@router.post(
    "",
    response_model=JobObject,
    openapi_extra=json_body(CreateJob),
    responses=refusals(404, 409, 507),
)
async def create_job(
    wanted: Annotated[CreateJob, Depends(_body_of)],
    caller: Caller,
    service: Service,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Create a fine-tuning job. With an `Idempotency-Key`, a repeat within 24 hours gets the first
    answer and starts nothing."""
    call = idempotent_call(
        caller.project.id, ROUTE, idempotency_key, wanted.model_dump_json(exclude_unset=True)
    )
    answer = await service.create(caller, wanted, call)
    return Response(answer, media_type="application/json")


@router.get("", responses=refusals(404))
async def list_jobs(
    request: Request,
    caller: Caller,
    rows: Rows,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
) -> JobList:
    """List jobs, newest first. `metadata[key]=value` selects by metadata, `metadata=null` those
    without any."""
    pairs, without = metadata_filter(request)
    try:
        page = await rows.jobs.page(
            caller.project.id, after=after, limit=limit, metadata=pairs, without_metadata=without
        )
    except UnknownCursorError as error:
        raise no_such_job(error.after) from None
    data = [JobObject.of(job, caller.project.slug) for job in page.items]
    return JobList(data=data, has_more=page.has_more)


@router.get("/{fine_tuning_job_id}")
async def retrieve_job(fine_tuning_job_id: str, caller: Caller, service: Service) -> JobObject:
    job = await service.find(caller.project, fine_tuning_job_id)
    return JobObject.of(job, caller.project.slug)


@router.post("/{fine_tuning_job_id}/cancel", responses=refusals(507))
async def cancel_job(fine_tuning_job_id: str, caller: Caller, service: Service) -> JobObject:
    """Cancel a job that has not ended; training stops within a step."""
    job = await service.cancel(caller.project, fine_tuning_job_id)
    return JobObject.of(job, caller.project.slug)


@router.post("/{fine_tuning_job_id}/pause", responses=refusals(507))
async def pause_job(fine_tuning_job_id: str, caller: Caller, service: Service) -> JobObject:
    """Pause a running job: it saves its state and frees the device."""
    job = await service.pause(caller.project, fine_tuning_job_id)
    return JobObject.of(job, caller.project.slug)


@router.post("/{fine_tuning_job_id}/resume", responses=refusals(507))
async def resume_job(fine_tuning_job_id: str, caller: Caller, service: Service) -> JobObject:
    """Queue a paused job again; it goes on where it stopped."""
    job = await service.resume(caller.project, fine_tuning_job_id)
    return JobObject.of(job, caller.project.slug)


@router.get(
    "/{fine_tuning_job_id}/events",
    response_model=EventList,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def list_events(
    fine_tuning_job_id: str,
    caller: Caller,
    service: Service,
    rows: Rows,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    stream: bool = False,
) -> EventList | Response:
    """What has happened to a job, newest first. With `stream`, all of its events as server-sent
    events, oldest first and as they happen, until it has ended."""
    job = await service.find(caller.project, fine_tuning_job_id)
    if stream:
        if after is not None:
            raise invalid_value("after", "It cannot be combined with 'stream'.")
        return event_feed(service, rows, caller, job.id)
    try:
        page = await rows.jobs.events_page(job.id, after=after, limit=limit)
    except UnknownCursorError as error:
        raise no_such_cursor(error) from None
    return EventList(data=[EventObject.of(e) for e in page.items], has_more=page.has_more)


@router.get("/{fine_tuning_job_id}/checkpoints")
async def list_checkpoints(
    fine_tuning_job_id: str,
    caller: Caller,
    service: Service,
    rows: Rows,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 10,
) -> CheckpointList:
    """A job's checkpoints, newest first; each can be chatted with by its own id."""
    job = await service.find(caller.project, fine_tuning_job_id)
    try:
        page = await rows.jobs.checkpoints_page(job.id, after=after, limit=limit)
    except UnknownCursorError as error:
        raise no_such_cursor(error) from None
    data = [CheckpointObject.of(checkpoint) for checkpoint in page.items]
    return CheckpointList.of(data, has_more=page.has_more)
