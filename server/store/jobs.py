"""Fine-tuning jobs as their owners see them. What supervisors do with jobs is in `progress`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sqlalchemy import select

from server.store.audit import write_audit
from server.store.cursors import fetch_page
from server.store.database import Database
from server.store.idempotency import find_replay, keep_replay
from server.store.job_rows import checkpoint_of, event_of, insert_events, insert_job, job_of
from server.store.job_states import JobAction, transition
from server.store.metadata_pairs import carries
from server.store.records import Actor, Checkpoint, Job, JobEvent, NewEvent, Page, Replay
from server.store.tables import job_checkpoints, job_events, job_metadata, jobs

JOB_CREATED = "fine_tuning.job.created"


class Jobs:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        job: Job,
        first_event: NewEvent,
        replay: tuple[str, str, Replay] | None = None,
        more_events: Sequence[NewEvent] = (),
        by: Actor | None = None,
    ) -> Replay | None:
        """Job, events, who made it and, under `(route, key, answer)`, the answer for a repeat, in
        one transaction. If a repeat was quicker, keeps nothing and returns that one's answer."""
        async with self._database.write() as connection:
            if replay is not None:
                route, key, answer = replay
                earlier = await find_replay(connection, job.project_id, route, key)
                if earlier is not None:
                    return earlier
                await keep_replay(connection, job.project_id, route, key, answer)
            await insert_job(connection, job)
            await insert_events(connection, job.id, [first_event, *more_events])
            if by is not None:
                await write_audit(connection, by, JOB_CREATED, job.project_id, {"id": job.id})
        return None

    async def find(self, project_id: str, job_id: str) -> Job | None:
        query = select(jobs).where(jobs.c.project_id == project_id, jobs.c.id == job_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else job_of(row)

    async def page(
        self,
        project_id: str,
        *,
        after: str | None,
        limit: int,
        metadata: Mapping[str, str] | None = None,
        without_metadata: bool = False,
    ) -> Page[Job]:
        """Newest first, those that carry all pairs of `metadata`. Raises UnknownCursorError."""
        filters = carries(job_metadata.c.job_id, jobs.c.id, metadata or {})
        if without_metadata:
            filters.append(jobs.c.metadata.is_(None))
        scope = [jobs.c.project_id == project_id]
        async with self._database.read() as connection:
            rows, has_more = await fetch_page(
                connection, jobs, scope, filters, after=after, limit=limit
            )
        return Page(tuple(job_of(row) for row in rows), has_more)

    async def cancel(self, project_id: str, job_id: str, event: NewEvent) -> bool:
        """False when there is nothing left to cancel. A trainer at work sees it and leaves."""
        return await self._change(
            JobAction.CANCEL, project_id, job_id, event, finished_at=int(time.time())
        )

    async def pause(self, project_id: str, job_id: str, event: NewEvent) -> bool:
        """False when the job is not running."""
        return await self._change(JobAction.PAUSE, project_id, job_id, event)

    async def resume(self, project_id: str, job_id: str, event: NewEvent) -> bool:
        """False when the job is not paused. It is queued where it stood, by age."""
        return await self._change(JobAction.RESUME, project_id, job_id, event, trainer_deaths=0)

    async def _change(
        self,
        action: JobAction,
        project_id: str,
        job_id: str,
        event: NewEvent,
        **values: int,
    ) -> bool:
        async with self._database.write(makes_room=True) as connection:
            changed = await transition(
                connection,
                action,
                job_id,
                jobs.c.project_id == project_id,
                estimated_finish=None,
                **values,
            )
            if changed:
                await insert_events(connection, job_id, [event])
        return changed

    async def events_page(self, job_id: str, *, after: str | None, limit: int) -> Page[JobEvent]:
        """Newest first. The caller has found the job for its project. Raises UnknownCursorError."""
        async with self._database.read() as connection:
            rows, has_more = await fetch_page(
                connection, job_events, [job_events.c.job_id == job_id], after=after, limit=limit
            )
        return Page(tuple(event_of(row) for row in rows), has_more)

    async def checkpoints_page(
        self, job_id: str, *, after: str | None, limit: int
    ) -> Page[Checkpoint]:
        """Newest first. The caller has found the job for its project. Raises UnknownCursorError."""
        scope = [job_checkpoints.c.job_id == job_id]
        async with self._database.read() as connection:
            rows, has_more = await fetch_page(
                connection, job_checkpoints, scope, after=after, limit=limit
            )
        return Page(tuple(checkpoint_of(row) for row in rows), has_more)
