"""Answers kept under an Idempotency-Key, per project and route."""

from __future__ import annotations

import time

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.database import Database
from server.store.records import Replay
from server.store.tables import idempotency

KEPT_S = 24 * 3600


class Replays:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, project_id: str, route: str, key: str) -> Replay | None:
        async with self._database.read() as connection:
            return await find_replay(connection, project_id, route, key)

    async def forget_old(self) -> None:
        async with self._database.write(makes_room=True) as connection:
            await connection.execute(
                delete(idempotency).where(idempotency.c.created_at < time.time() - KEPT_S)
            )


async def find_replay(
    connection: AsyncConnection, project_id: str, route: str, key: str
) -> Replay | None:
    query = select(idempotency).where(
        idempotency.c.project_id == project_id,
        idempotency.c.route == route,
        idempotency.c.key == key,
        idempotency.c.created_at >= time.time() - KEPT_S,
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Replay(row.body_hash, row.response)


async def keep_replay(
    connection: AsyncConnection, project_id: str, route: str, key: str, replay: Replay
) -> None:
    """In the transaction that made what the answer tells of; replaces an expired one."""
    place = {"project_id": project_id, "route": route, "key": key}
    await connection.execute(
        delete(idempotency).where(*(idempotency.c[name] == v for name, v in place.items()))
    )
    await connection.execute(
        idempotency.insert().values(
            **place,
            body_hash=replay.body_hash,
            response=replay.response,
            created_at=int(time.time()),
        )
    )
