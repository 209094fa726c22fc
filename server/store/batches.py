"""Rows of batches. One gateway at a time runs a batch: it holds the row's lease, and all it writes
is on condition that it still does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Row, func, or_, select, update

from server.store.cursors import fetch_page
from server.store.database import Database
from server.store.files import insert_file
from server.store.idempotency import find_replay, keep_replay
from server.store.records import File, Page, Replay
from server.store.tables import batches
from server.store.webhooks import insert_event


class BatchStatus(StrEnum):
    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


OPEN = (
    BatchStatus.VALIDATING,
    BatchStatus.IN_PROGRESS,
    BatchStatus.FINALIZING,
    BatchStatus.CANCELLING,
)
_CANCELLABLE = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)


class LeaseLostError(Exception):
    """Another gateway has the batch, or it has ended."""


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """Of the lines that have ended, and the tokens that they cost."""

    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def plus(self, other: BatchCounts) -> BatchCounts:
        sums = {name: getattr(self, name) + getattr(other, name) for name in self.__slots__}
        return BatchCounts(**sums)

    def values(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """`key_id` names the key that created it."""

    id: str
    project_id: str
    key_id: str
    endpoint: str
    model: str | None = None
    input_file_id: str
    completion_window: str
    status: BatchStatus = BatchStatus.VALIDATING
    errors: list[dict[str, Any]] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    output_expires_s: int | None = None
    metadata: dict[str, str] | None = None
    created_at: int
    expires_at: int
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    total: int = 0
    counts: BatchCounts = BatchCounts()


class TooManyBatchesError(Exception):
    """The project has as many under way as it may."""


class Batches:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self, batch: Batch, max_open: int, replay: tuple[str, str, Replay] | None = None
    ) -> Replay | None:
        """As `Files.add`. Raises TooManyBatchesError."""
        is_open = (batches.c.project_id == batch.project_id, batches.c.status.in_(OPEN))
        num_open = select(func.count()).select_from(batches).where(*is_open)
        async with self._database.write() as connection:
            if replay is not None:
                route, key, answer = replay
                earlier = await find_replay(connection, batch.project_id, route, key)
                if earlier is not None:
                    return earlier
                await keep_replay(connection, batch.project_id, route, key, answer)
            if (await connection.scalar(num_open) or 0) >= max_open:
                raise TooManyBatchesError
            await connection.execute(batches.insert().values(**_values(batch)))
        return None

    async def find(self, project_id: str, batch_id: str) -> Batch | None:
        query = select(batches).where(batches.c.project_id == project_id, batches.c.id == batch_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _batch_of(row)

    async def page(self, project_id: str, *, after: str | None, limit: int) -> Page[Batch]:
        """The newest first. Raises UnknownCursorError."""
        async with self._database.read() as connection:
            rows, has_more = await fetch_page(
                connection,
                batches,
                [batches.c.project_id == project_id],
                after=after,
                limit=limit,
            )
        return Page(tuple(_batch_of(row) for row in rows), has_more)

    async def cancel(self, project_id: str, batch_id: str) -> Batch | None:
        """Asks for its end, where that has not begun; the row as it is then."""
        query = (
            update(batches)
            .where(
                batches.c.project_id == project_id,
                batches.c.id == batch_id,
                batches.c.status.in_(_CANCELLABLE),
            )
            .values(status=BatchStatus.CANCELLING.value, cancelling_at=int(time.time()))
        )
        async with self._database.write(makes_room=True) as connection:
            await connection.execute(query)
        return await self.find(project_id, batch_id)

    async def claim(
        self,
        owner: str,
        lease_s: float,
        per_project: int,
        most: int,
        *,
        but: Collection[str] = (),
    ) -> list[Batch]:
        """Takes the leases of open batches that nobody runs, the oldest first, `most` at a time and
        so many that no project has more than `per_project` under way. Those with the ids `but` are
        left."""
        now = time.time()
        query = select(batches).where(batches.c.status.in_(OPEN)).order_by(batches.c.num)
        free = or_(batches.c.lease_until.is_(None), batches.c.lease_until < now)
        async with self._database.read() as connection:
            if (await connection.execute(query.where(free).limit(1))).first() is None:
                return []
        claimed: list[Batch] = []
        async with self._database.write() as connection:
            rows = (await connection.execute(query)).all()
            running = Counter(row.project_id for row in rows if (row.lease_until or 0) >= now)
            for row in rows:
                is_free = (row.lease_until or 0) < now and len(claimed) < most
                if not is_free or row.id in but or running[row.project_id] >= per_project:
                    continue
                taken = await connection.execute(
                    update(batches)
                    .where(batches.c.num == row.num, free)
                    .values(owner=owner, lease_until=now + lease_s)
                )
                if taken.rowcount:
                    running[row.project_id] += 1
                    claimed.append(_batch_of(row))
        return claimed

    async def report(
        self, batch_id: str, owner: str, lease_s: float, counts: BatchCounts
    ) -> BatchStatus:
        """Renews the lease and returns the status. Raises LeaseLostError."""
        now = time.time()
        query = (
            update(batches)
            .where(*_held(batch_id, owner, OPEN), batches.c.lease_until >= now)
            .values(lease_until=now + lease_s, **counts.values())
            .returning(batches.c.status)
        )
        async with self._database.write(makes_room=True) as connection:
            status = await connection.scalar(query)
        if status is None:
            raise LeaseLostError
        return BatchStatus(status)

    async def release(self, batch_id: str, owner: str) -> None:
        """Another may run it at once."""
        async with self._database.write(makes_room=True) as connection:
            await connection.execute(
                update(batches)
                .where(batches.c.id == batch_id, batches.c.owner == owner)
                .values(owner=None, lease_until=None)
            )

    async def begin(self, batch_id: str, owner: str, model: str, total: int) -> bool:
        """From `validating` to `in_progress`; False where it is cancelled."""
        return await self._move(
            batch_id,
            owner,
            (BatchStatus.VALIDATING,),
            status=BatchStatus.IN_PROGRESS.value,
            in_progress_at=int(time.time()),
            model=model,
            total=total,
        )

    async def finalize(self, batch_id: str, owner: str) -> bool:
        """From `in_progress` to `finalizing`; False where it is cancelled."""
        return await self._move(
            batch_id,
            owner,
            (BatchStatus.IN_PROGRESS,),
            status=BatchStatus.FINALIZING.value,
            finalizing_at=int(time.time()),
        )

    async def end(
        self,
        batch: Batch,
        owner: str,
        status: BatchStatus,
        *,
        counts: BatchCounts | None = None,
        output: File | None = None,
        errors_file: File | None = None,
        errors: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Its files, its last status and the event of it, in one transaction. Raises
        LeaseLostError."""
        query = (
            update(batches)
            .where(*_held(batch.id, owner, OPEN))
            .values(
                {
                    "status": status.value,
                    f"{status.value}_at": int(time.time()),
                    "output_file_id": None if output is None else output.id,
                    "error_file_id": None if errors_file is None else errors_file.id,
                    "errors": None if errors is None else [*errors],
                    "owner": None,
                    "lease_until": None,
                    **({} if counts is None else counts.values()),
                }
            )
        )
        async with self._database.write() as connection:
            if (await connection.execute(query)).rowcount != 1:
                raise LeaseLostError
            for file in (output, errors_file):
                if file is not None:
                    await insert_file(connection, file)
            await insert_event(connection, f"batch.{status.value}", batch.project_id, batch.id)

    async def _move(
        self, batch_id: str, owner: str, sources: Sequence[BatchStatus], **values: object
    ) -> bool:
        query = update(batches).where(*_held(batch_id, owner, sources)).values(**values)
        async with self._database.write(makes_room=True) as connection:
            return (await connection.execute(query)).rowcount == 1


def _held(
    batch_id: str, owner: str, statuses: Sequence[BatchStatus]
) -> tuple[ColumnElement[bool], ...]:
    """That the batch is this gateway's, in one of these states."""
    return (
        batches.c.id == batch_id,
        batches.c.owner == owner,
        batches.c.status.in_(statuses),
    )


def _values(batch: Batch) -> dict[str, Any]:
    names = [name for name in Batch.__slots__ if name != "counts"]
    values = {name: getattr(batch, name) for name in names}
    return {**values, "status": batch.status.value, **batch.counts.values()}


def _batch_of(row: Row[Any]) -> Batch:
    names = [name for name in Batch.__slots__ if name not in ("counts", "status")]
    return Batch(
        **{name: getattr(row, name) for name in names},
        status=BatchStatus(row.status),
        counts=BatchCounts(**{name: getattr(row, name) for name in BatchCounts.__slots__}),
    )
