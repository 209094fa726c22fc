"""How many objects of all projects the store has, by their state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Column, func, select

from server.store.database import Database
from server.store.tables import jobs, uploads, webhook_deliveries


@dataclass(frozen=True, slots=True)
class StoredCounts:
    """A state without objects may be missing."""

    jobs: Mapping[str, int] = field(default_factory=dict[str, int])
    uploads: Mapping[str, int] = field(default_factory=dict[str, int])
    webhook_deliveries: Mapping[str, int] = field(default_factory=dict[str, int])


async def count_stored(database: Database) -> StoredCounts:
    async with database.read() as connection:

        async def by(state: Column[str]) -> dict[str, int]:
            query = select(state, func.count()).group_by(state)
            return {name: count for name, count in (await connection.execute(query)).all()}

        return StoredCounts(
            await by(jobs.c.status),
            await by(uploads.c.status),
            await by(webhook_deliveries.c.state),
        )
