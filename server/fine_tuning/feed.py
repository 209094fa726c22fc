"""A job's events as they happen, until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from sse_starlette import EventSourceResponse

from server.auth import Principal
from server.fine_tuning.schemas import EventObject
from server.fine_tuning.service import JobService
from server.store import Store
from server.store.records import JobEvent, JobStatus

POLL_INTERVAL_S = 0.5
_PING_INTERVAL_S = 10
_PAGE = 100
_ENDED = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})


def event_feed(
    service: JobService, rows: Store, caller: Principal, job_id: str
) -> EventSourceResponse:
    """Oldest first; ends with `[DONE]`, as OpenAI's did when its clients could stream events."""
    records = _records(service, rows, caller, job_id)
    return EventSourceResponse(records, ping=_PING_INTERVAL_S, sep="\n")


async def _records(
    service: JobService, rows: Store, caller: Principal, job_id: str
) -> AsyncGenerator[str]:
    last: str | None = None
    while True:
        # Asked before the events: a job's end and its last events appear together.
        job = await service.find(caller.project, job_id)
        for event in await _since(rows, job_id, last):
            last = event.id
            yield EventObject.of(event).model_dump_json()
        if job.status in _ENDED:
            yield "[DONE]"
            return
        await asyncio.sleep(POLL_INTERVAL_S)


async def _since(rows: Store, job_id: str, last: str | None) -> list[JobEvent]:
    """The events after `last`, oldest first."""
    found: list[JobEvent] = []
    after: str | None = None
    while True:
        page = await rows.jobs.events_page(job_id, after=after, limit=_PAGE)
        for event in page.items:
            if event.id == last:
                return found[::-1]
            found.append(event)
        if not page.has_more:
            return found[::-1]
        after = page.items[-1].id
