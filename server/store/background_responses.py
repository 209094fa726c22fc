"""Rows of background responses while they are under way: owned by one gateway, under a lease.

A row has a lease until it has ended. Whoever sees that a lease has run out ends the row as failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.database import Database
from server.store.responses import StoredResponse
from server.store.tables import responses
from server.store.webhooks import insert_event

_OPEN = responses.c.lease_until.is_not(None)
_MAX_FAILED_AT_ONCE = 100

ChangeBody = Callable[[str], str]
"""From the JSON of a response under way to that of one that has ended."""


class TooManyResponsesError(Exception):
    """The project has as many under way as it may."""


class BackgroundResponses:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, kept: StoredResponse, owner: str, lease_s: float, max_open: int) -> None:
        """Raises TooManyResponsesError."""
        num_open = (
            select(func.count())
            .select_from(responses)
            .where(responses.c.project_id == kept.project_id, responses.c.lease_until > 0)
        )
        values = {name: getattr(kept, name) for name in StoredResponse.__slots__}
        lease = {"owner": owner, "lease_until": time.time() + lease_s}
        async with self._database.write() as connection:
            if (await connection.scalar(num_open) or 0) >= max_open:
                raise TooManyResponsesError
            await connection.execute(responses.insert().values(**values, **lease))

    async def begin(self, response_id: str, owner: str, body: str) -> None:
        """From `queued` to `in_progress`, if that is what it is."""
        query = (
            update(responses)
            .where(
                responses.c.id == response_id,
                responses.c.owner == owner,
                responses.c.status == "queued",
            )
            .values(status="in_progress", body=body)
        )
        async with self._database.write(makes_room=True) as connection:
            await connection.execute(query)

    async def end(self, ended: StoredResponse, owner: str) -> bool:
        """Writes its end and the event of it, in one transaction. False if it has ended otherwise,
        is deleted or another's."""
        async with self._database.write() as connection:
            return await _end(
                connection,
                ended,
                responses.c.owner == owner,
                status=ended.status,
                body=ended.body,
                context_bytes=ended.context_bytes,
            )

    async def cancel(self, project_id: str, response_id: str, change: ChangeBody) -> None:
        """Ends it as `cancelled` if it is under way."""
        query = select(responses).where(
            responses.c.project_id == project_id, responses.c.id == response_id, _OPEN
        )
        async with self._database.write(makes_room=True) as connection:
            row = (await connection.execute(query)).one_or_none()
            if row is not None:
                await _end(connection, row, status="cancelled", body=change(row.body))

    async def renew(self, owner: str, lease_s: float) -> set[str]:
        """The ids of those that still are this gateway's, each with a new lease."""
        now = time.time()
        query = (
            update(responses)
            .where(responses.c.lease_until >= now, responses.c.owner == owner)
            .values(lease_until=now + lease_s)
            .returning(responses.c.id)
        )
        async with self._database.write(makes_room=True) as connection:
            return set((await connection.scalars(query)).all())

    async def fail_expired(self, change: ChangeBody) -> None:
        """Ends those as `failed` whose lease has run out."""
        query = (
            select(responses)
            .where(responses.c.lease_until < time.time())
            .limit(_MAX_FAILED_AT_ONCE)
        )
        async with self._database.read() as connection:
            if (await connection.execute(query.limit(1))).first() is None:
                return
        async with self._database.write(makes_room=True) as connection:
            for row in (await connection.execute(query)).all():
                is_expired = responses.c.lease_until < time.time()
                await _end(connection, row, is_expired, status="failed", body=change(row.body))


async def _end(connection: AsyncConnection, ended: Any, *conditions: Any, **values: Any) -> bool:
    query = (
        update(responses)
        .where(responses.c.id == ended.id, _OPEN, *conditions)
        .values(owner=None, lease_until=None, **values)
    )
    if (await connection.execute(query)).rowcount != 1:
        return False
    await insert_event(connection, f"response.{values['status']}", ended.project_id, ended.id)
    return True
