"""Connections and transactions.

SQLite: write-ahead log, `synchronous=FULL` (an acknowledged commit survives power loss), writers
take the write lock at once (`BEGIN IMMEDIATE`) and wait for one another, so a transaction that
reads and then writes never fails half-way with a lock error. PostgreSQL: plain transactions;
claims use `FOR UPDATE SKIP LOCKED`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from server.blobs.storage import StorageFullError

BUSY_TIMEOUT_S = 30.0
_POOL_SIZE = 8


class Database:
    """Gives out transactions; `write` ones commit on leaving without an exception."""

    def __init__(self, url: str) -> None:
        self._engine = _create_engine(url)
        self._writing = self._engine.execution_options(tuneyard_write=True)

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """A consistent view; nothing may be written."""
        async with self._engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[AsyncConnection]:
        """Raises StorageFullError when the database's disk is full."""
        try:
            async with self._writing.begin() as connection:
                yield connection
        except OperationalError as error:
            if _is_full(error):
                raise StorageFullError("the database has no room left") from error
            raise

    async def close(self) -> None:
        await self._engine.dispose()


def _is_full(error: OperationalError) -> bool:
    """SQLITE_FULL, or PostgreSQL's disk_full."""
    original = error.orig
    return (
        getattr(original, "sqlite_errorname", None) == "SQLITE_FULL"
        or getattr(original, "sqlstate", None) == "53100"
    )


def _create_engine(url: str) -> AsyncEngine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_async_engine(url, pool_size=_POOL_SIZE, pool_pre_ping=True)
    engine = create_async_engine(
        url, pool_size=_POOL_SIZE, connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None}
    )
    event.listen(engine.sync_engine, "connect", _set_pragmas)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("tuneyard_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
