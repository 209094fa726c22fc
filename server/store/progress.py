"""What supervisors do with jobs: claim them under a lease, record what trainers report, end them.

A supervisor owns a job while `owner` is its id and the lease has not run out. Everything here but
`claim` is conditional on ownership, so a supervisor that was thought dead can change nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, Select, and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.checkpoint_rows import drop_checkpoints, insert_checkpoint
from server.store.database import Database
from server.store.files import insert_file
from server.store.job_rows import insert_events, job_of
from server.store.job_states import JobAction, transition
from server.store.models import insert_model
from server.store.records import (
    TERMINAL_STATUSES,
    File,
    Job,
    JobError,
    JobStatus,
    JsonObject,
    Model,
    NewCheckpoint,
    NewEvent,
)
from server.store.tables import jobs
from server.store.turns import Turns, last_turn, take_turn

_PATHS_OF_PLANS = (
    "weights_path",
    "adapter_path",
    "reward_model",
    "reference_path",
    "reference_adapter_path",
)


@dataclass(frozen=True, slots=True)
class Report:
    """What a batch of trainer events amounts to; `last_seq` is the number of its last one."""

    last_seq: int
    events: tuple[NewEvent, ...] = ()
    checkpoints: tuple[tuple[NewCheckpoint, Model], ...] = ()
    estimated_finish: int | None = None
    num_checkpoints_kept: int = 3
    """The newest; older ones disappear with their models."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished training: all of it becomes visible at once, or none."""

    model: Model
    result_files: tuple[File, ...]
    trained_tokens: int
    events: tuple[NewEvent, ...]


class Progress:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim_validation(self, owner: str, lease_s: float) -> Job | None:
        """Takes a job whose files are to be checked and that nobody holds: of the project that has
        waited longest for its turn, the oldest."""
        wanted = jobs.c.status == JobStatus.VALIDATING_FILES
        if not await self._is_any(owner, wanted):
            return None
        async with self._database.write() as connection:
            return await _claim(connection, owner, lease_s, wanted, Turns.VALIDATION)

    async def claim_training(
        self, owner: str, lease_s: float, started: NewEvent, interrupted: NewEvent
    ) -> Job | None:
        """Takes a job to train that nobody holds: of the project that has waited longest for its
        turn, the oldest. A queued one starts to run, with the event `started`; one found running
        lost its supervisor, goes before all others, and gets the event `interrupted`."""
        wanted = jobs.c.status.in_([JobStatus.QUEUED, JobStatus.RUNNING])
        if not await self._is_any(owner, wanted):
            return None
        async with self._database.write() as connection:
            job = await _claim(connection, owner, lease_s, wanted, Turns.TRAINING)
            if job is None:
                return None
            if job.status is JobStatus.QUEUED:
                await transition(connection, JobAction.START, job.id)
                await insert_events(connection, job.id, [started])
            else:
                await insert_events(connection, job.id, [interrupted])
            return await _get(connection, job.id)

    async def _is_any(self, owner: str, wanted: ColumnElement[bool]) -> bool:
        """A look without the write lock, for the many times that there is nothing to do."""
        query = select(jobs.c.num).where(wanted, _is_free(owner)).limit(1)
        async with self._database.read() as connection:
            return await connection.scalar(query) is not None

    async def renew(self, owner: str, lease_s: float) -> dict[str, JobStatus]:
        """Extends the leases on all jobs the supervisor owns; their states tell it what their
        users have asked for meanwhile. A job missing here is no longer its own."""
        query = (
            update(jobs)
            .where(jobs.c.owner == owner)
            .values(lease_until=time.time() + lease_s)
            .returning(jobs.c.id, jobs.c.status)
        )
        async with self._database.write() as connection:
            rows = (await connection.execute(query)).all()
        return {row.id: JobStatus(row.status) for row in rows}

    async def statuses(self, owner: str) -> dict[str, JobStatus]:
        """Of the jobs the supervisor owns: what their users have asked for meanwhile."""
        query = select(jobs.c.id, jobs.c.status).where(jobs.c.owner == owner)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return {row.id: JobStatus(row.status) for row in rows}

    async def list_open_paths(self) -> frozenset[str]:
        """Model directories that unfinished jobs start from, or ask."""
        query = select(jobs.c.plan).where(jobs.c.status.not_in(TERMINAL_STATUSES))
        async with self._database.read() as connection:
            plans = (await connection.scalars(query)).all()
        paths = (plan.get(name) for plan in plans for name in _PATHS_OF_PLANS)
        return frozenset(path for path in paths if path is not None)

    async def release(self, owner: str, job_id: str) -> None:
        """Gives the job up, as it stands: nothing works on it any more."""
        async with self._database.write(makes_room=True) as connection:
            await connection.execute(
                update(jobs)
                .where(jobs.c.id == job_id, jobs.c.owner == owner)
                .values(owner=None, lease_until=None)
            )

    async def release_all(self, owner: str) -> None:
        async with self._database.write(makes_room=True) as connection:
            await connection.execute(
                update(jobs).where(jobs.c.owner == owner).values(owner=None, lease_until=None)
            )

    async def note(self, owner: str, job_id: str, event: NewEvent) -> None:
        """Tells of the job what its supervisor has to say, whatever its state."""
        async with self._database.write(makes_room=True) as connection:
            is_ours = select(jobs.c.num).where(jobs.c.id == job_id, jobs.c.owner == owner)
            if await connection.scalar(is_ours) is not None:
                await insert_events(connection, job_id, [event])

    async def accept(
        self, owner: str, job_id: str, hyperparameters: JsonObject, events: Sequence[NewEvent]
    ) -> bool:
        """The files are valid: queued, `auto` settled, and given up in the same instant."""
        async with self._database.write() as connection:
            moved = await transition(
                connection,
                JobAction.ACCEPT,
                job_id,
                jobs.c.owner == owner,
                hyperparameters=hyperparameters,
                owner=None,
                lease_until=None,
            )
            if moved:
                await insert_events(connection, job_id, events)
        return moved

    async def fail(
        self, owner: str, job_id: str, error: JobError, events: Sequence[NewEvent]
    ) -> bool:
        async with self._database.write() as connection:
            moved = await transition(
                connection,
                JobAction.FAIL,
                job_id,
                jobs.c.owner == owner,
                error=asdict(error),
                finished_at=int(time.time()),
                estimated_finish=None,
            )
            if moved:
                await insert_events(connection, job_id, events)
        return moved

    async def count_death(self, owner: str, job_id: str) -> int | None:
        """A trainer ended without a word: how many have by now; None if the job is not ours or not
        running any more."""
        query = (
            update(jobs)
            .where(jobs.c.id == job_id, jobs.c.owner == owner, jobs.c.status == JobStatus.RUNNING)
            .values(trainer_deaths=jobs.c.trainer_deaths + 1)
            .returning(jobs.c.trainer_deaths)
        )
        async with self._database.write() as connection:
            return await connection.scalar(query)

    async def record(self, owner: str, job_id: str, after_seq: int, report: Report) -> bool:
        """Records a batch exactly once: only if the job's last recorded trainer event is
        `after_seq`. A paused job still takes in what its trainer did last; a cancelled one not."""
        async with self._database.write() as connection:
            result = await connection.execute(
                update(jobs)
                .where(
                    jobs.c.id == job_id,
                    jobs.c.owner == owner,
                    jobs.c.train_seq == after_seq,
                    jobs.c.status.in_([JobStatus.RUNNING, JobStatus.PAUSED]),
                )
                .values(train_seq=report.last_seq)
            )
            if result.rowcount == 0:
                return False
            await _note_estimate(connection, job_id, report.estimated_finish)
            await insert_events(connection, job_id, report.events)
            for checkpoint, model in report.checkpoints:
                await insert_checkpoint(connection, job_id, checkpoint, model)
            if report.checkpoints:
                await drop_checkpoints(connection, job_id, report.num_checkpoints_kept)
        return True

    async def succeed(self, owner: str, job_id: str, outcome: Outcome) -> bool:
        """Job state, events, model and result files in one transaction."""
        async with self._database.write() as connection:
            moved = await transition(
                connection,
                JobAction.SUCCEED,
                job_id,
                jobs.c.owner == owner,
                fine_tuned_model=outcome.model.id,
                finished_at=int(time.time()),
                estimated_finish=None,
                trained_tokens=outcome.trained_tokens,
                result_files=[file.id for file in outcome.result_files],
            )
            if moved:
                await insert_model(connection, outcome.model, wanted_at=time.time())
                for file in outcome.result_files:
                    await insert_file(connection, file)
                await insert_events(connection, job_id, outcome.events)
        return moved


def _is_free(owner: str) -> ColumnElement[bool]:
    """Whether `owner` may claim a job. One of its own is being worked on, even if its lease ran out
    while the machine slept."""
    ran_out = and_(jobs.c.lease_until < time.time(), jobs.c.owner != owner)
    return or_(jobs.c.owner.is_(None), ran_out)


async def _claim(
    connection: AsyncConnection,
    owner: str,
    lease_s: float,
    wanted: ColumnElement[bool],
    turns: Turns,
) -> Job | None:
    """One whose supervisor was lost has had its turn."""
    query: Select[str, str, str] = (
        select(jobs.c.id, jobs.c.project_id, jobs.c.status)
        .where(and_(wanted, _is_free(owner)))
        .order_by(
            jobs.c.status != JobStatus.RUNNING, last_turn(turns, jobs.c.project_id), jobs.c.num
        )
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    found = (await connection.execute(query)).one_or_none()
    if found is None:
        return None
    job_id, project_id, status = found
    if status != JobStatus.RUNNING:
        await take_turn(connection, turns, project_id)
    await connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(owner=owner, lease_until=time.time() + lease_s)
    )
    return await _get(connection, job_id)


async def _get(connection: AsyncConnection, job_id: str) -> Job:
    return job_of((await connection.execute(select(jobs).where(jobs.c.id == job_id))).one())


async def _note_estimate(
    connection: AsyncConnection, job_id: str, estimated_finish: int | None
) -> None:
    if estimated_finish is not None:
        await connection.execute(
            update(jobs)
            .where(jobs.c.id == job_id, jobs.c.status == JobStatus.RUNNING)
            .values(estimated_finish=estimated_finish)
        )
