"""Connections and transactions.

SQLite: write-ahead log, `synchronous=FULL` (an acknowledged commit survives power loss), writers
take the write lock at once (`BEGIN IMMEDIATE`) and wait for one another, so a transaction that
reads and then writes never fails half-way with a lock error. PostgreSQL: plain transactions;
claims use `FOR UPDATE SKIP LOCKED`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, Select, event, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from server.blobs.storage import StorageFullError
from server.store.quick_reads import QuickReads

BUSY_TIMEOUT_S = 30.0
_POOL_SIZE = 8


class Database:
    """Gives out transactions; `write` ones commit on leaving without an exception."""

    def __init__(self, url: str) -> None:
        self._engine = _create_engine(url)
        self._writing = self._engine.execution_options(tuneyard_write=True)
        self._quick_reads = _quick_reads(url)

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """A consistent view; nothing may be written."""
        async with self._engine.begin() as connection:
            yield connection

    async def look_up(self, query: Select[Any], **values: Any) -> Sequence[Any]:
        """The rows of a read that requests wait for. `query` is one of few, made once, of plain
        columns; its parameters are `values`."""
        if self._quick_reads is not None:
            return await self._quick_reads.fetch(query, values)
        async with self.read() as connection:
            return (await connection.execute(query, values)).all()

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
        if self._quick_reads is not None:
            await asyncio.to_thread(self._quick_reads.close)
        await self._engine.dispose()


def _quick_reads(url: str) -> QuickReads | None:
    """None for other databases, and for one that each connection has for itself."""
    parsed = make_url(url)
    path = parsed.database
    if parsed.get_backend_name() != "sqlite" or not path or path.startswith((":", "file:")):
        return None
    return QuickReads(path, BUSY_TIMEOUT_S)


def _is_full(error: OperationalError) -> bool:
    """SQLITE_FULL, or PostgreSQL's disk_full."""
    original = error.orig
    return (
        getattr(original, "sqlite_errorname", None) == "SQLITE_FULL"
        or getattr(original, "sqlstate", None) == "53100"
    )


def _create_engine(url: str) -> AsyncEngine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_async_engine(
            url, pool_size=_POOL_SIZE, pool_pre_ping=True, hide_parameters=True
        )
    engine = create_async_engine(
        url,
        pool_size=_POOL_SIZE,
        connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None},
        hide_parameters=True,
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
