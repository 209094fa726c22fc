"""Engine workers as their supervisors report them."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from sqlalchemy import delete, select, update

from server.store.database import Database
from server.store.records import Engine, EngineState
from server.store.tables import engines

FORGOTTEN_AFTER_S = 600.0
"""A supervisor that has been silent for so long will not come back to its engines."""

_READY = select(engines).where(engines.c.state == EngineState.READY.value).order_by(engines.c.id)


class Engines:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_ready(self) -> tuple[Engine, ...]:
        """All engines that take requests, of all supervisors, silent ones too: whether a worker
        lives shows when it is connected to, and a refused connection is normal."""
        rows = await self._database.look_up(_READY)
        return tuple(_engine_of(row) for row in rows)

    async def list_all(self) -> tuple[Engine, ...]:
        async with self._database.read() as connection:
            rows = (await connection.execute(select(engines).order_by(engines.c.id))).all()
        return tuple(_engine_of(row) for row in rows)

    async def put(self, engine: Engine) -> None:
        """Writes the row, new or not."""
        values = {
            "model_id": engine.model_id,
            "address": engine.address,
            "token": engine.token,
            "state": engine.state.value,
            "supervisor_id": engine.supervisor_id,
            "pid": engine.pid,
            "heartbeat_at": engine.heartbeat_at,
        }
        async with self._database.write(makes_room=True) as connection:
            known = await connection.execute(
                update(engines).where(engines.c.id == engine.id).values(**values)
            )
            if known.rowcount == 0:
                await connection.execute(engines.insert().values(id=engine.id, **values))

    async def beat(self, supervisor_id: str) -> None:
        """Says that the supervisor and its engines are alive."""
        async with self._database.write(makes_room=True) as connection:
            await connection.execute(
                update(engines)
                .where(engines.c.supervisor_id == supervisor_id)
                .values(heartbeat_at=time.time())
            )

    async def remove(self, engine_id: str) -> None:
        async with self._database.write(makes_room=True) as connection:
            await connection.execute(delete(engines).where(engines.c.id == engine_id))

    async def take_over(
        self, predecessor: str, supervisor_id: str, living: Collection[str]
    ) -> None:
        """The rows of a supervisor that is known to be gone: those of engines that live on are
        another's, the others go."""
        of_it = engines.c.supervisor_id == predecessor
        async with self._database.write(makes_room=True) as connection:
            await connection.execute(delete(engines).where(of_it, engines.c.id.not_in(living)))
            await connection.execute(
                update(engines)
                .where(of_it)
                .values(supervisor_id=supervisor_id, heartbeat_at=time.time())
            )

    async def remove_silent(self, supervisor_id: str) -> None:
        """Drops the rows that dead supervisors left. The one that asks is alive, though it may have
        been silent: a machine that slept."""
        silent = engines.c.heartbeat_at < time.time() - FORGOTTEN_AFTER_S
        async with self._database.write() as connection:
            await connection.execute(
                delete(engines).where(silent, engines.c.supervisor_id != supervisor_id)
            )


def _engine_of(row: Any) -> Engine:
    return Engine(
        id=row.id,
        model_id=row.model_id,
        address=row.address,
        token=row.token,
        state=EngineState(row.state),
        supervisor_id=row.supervisor_id,
        pid=row.pid,
        heartbeat_at=row.heartbeat_at,
    )
