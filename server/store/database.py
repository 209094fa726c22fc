"""Connections and transactions.

SQLite: write-ahead log, `synchronous=FULL` (an acknowledged commit survives power loss), writers
take the write lock at once (`BEGIN IMMEDIATE`) and wait for one another, so a transaction that
reads and then writes never fails half-way with a lock error. PostgreSQL: plain transactions;
claims use `FOR UPDATE SKIP LOCKED`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Insert, Select, event, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from server.store.passing_faults import StoreUnavailableError, passing_fault
from server.store.quick_reads import QuickReads
from server.store.quick_writes import PRAGMAS, QuickWrites
from server.store.reserve import Reserve

LOCK_WAIT_S = 5.0
"""How long a write waits for another's lock, and before that for one of this process's connections.
Well under what clients wait."""
_NUM_READERS = 8
_NUM_WRITERS = 4
"""Connections of their own, so that writes that wait for a lock keep no read waiting."""


class Database:
    """Gives out transactions; `write` ones commit on leaving without an exception. All of them
    raise StoreUnavailableError, StorageFullError when the database's disk is full, and
    UnstorableTextError."""

    def __init__(self, url: str) -> None:
        self._reading = _create_engine(url, _NUM_READERS)
        self._writing = _create_engine(url, _NUM_WRITERS).execution_options(tuneyard_write=True)
        path = _sqlite_path(url)
        self._quick_reads = None if path is None else QuickReads(str(path), LOCK_WAIT_S)
        self._quick_writes = None if path is None else QuickWrites(str(path), LOCK_WAIT_S)
        self.reserve = None if path is None else Reserve(path.with_name("reserve"))
        """Of another database's disk its own operators take care."""

    @property
    def dialect(self) -> str:
        return self._reading.dialect.name

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """A consistent view; nothing may be written."""
        with _faults_named():
            async with self._reading.begin() as connection:
                yield connection

    async def look_up(self, query: Select[*tuple[Any, ...]], **values: Any) -> Sequence[Any]:
        """The rows of a read that requests wait for. `query` is one of few, made once, of plain
        columns; its parameters are `values`."""
        if self._quick_reads is not None:
            with _faults_named():
                return await self._quick_reads.fetch(query, values)
        async with self.read() as connection:
            return (await connection.execute(query, values)).all()

    @asynccontextmanager
    async def write(self, *, makes_room: bool = False) -> AsyncGenerator[AsyncConnection]:
        """`makes_room`: something is freed by it, or it is little and cannot wait; on a full disk
        it takes from the reserve."""
        lent = self.reserve.lent() if makes_room and self.reserve is not None else nullcontext()
        with lent, _faults_named():
            async with self._writing.begin() as connection:
                yield connection

    async def append(self, query: Insert, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows that requests wait for, in a transaction of their own. `query` is one of few,
        made once."""
        if self._quick_writes is not None:
            with _faults_named():
                await self._quick_writes.insert(query, rows)
            return
        async with self.write() as connection:
            await connection.execute(query, rows)

    async def close(self) -> None:
        if self._quick_reads is not None:
            await asyncio.to_thread(self._quick_reads.close)
        if self._quick_writes is not None:
            await asyncio.to_thread(self._quick_writes.close)
        await self._reading.dispose()
        await self._writing.dispose()


@contextmanager
def _faults_named() -> Generator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        told = StoreUnavailableError(f"the database cannot be used: {error}")
        raise passing_fault(error) or told from error
    except (SQLAlchemyError, OSError) as error:
        if (fault := passing_fault(error)) is not None:
            raise fault from error
        raise


def _sqlite_path(url: str) -> Path | None:
    """None for other databases, and for one that each connection has for itself."""
    parsed = make_url(url)
    path = parsed.database
    if parsed.get_backend_name() != "sqlite" or not path or path.startswith((":", "file:")):
        return None
    return Path(path)


def _create_engine(url: str, num_connections: int) -> AsyncEngine:
    size = {"pool_size": num_connections, "max_overflow": 0, "pool_timeout": LOCK_WAIT_S}
    if make_url(url).get_backend_name() != "sqlite":
        waits = {"lock_timeout": str(int(LOCK_WAIT_S * 1000))}
        return create_async_engine(
            url,
            pool_pre_ping=True,
            connect_args={"server_settings": waits},
            hide_parameters=True,
            **size,
        )
    engine = create_async_engine(
        url,
        connect_args={"timeout": LOCK_WAIT_S, "isolation_level": None},
        hide_parameters=True,
        **size,
    )
    event.listen(engine.sync_engine, "connect", _set_pragmas)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("tuneyard_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
