"""Rows that many requests add, in one trip to a thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import Insert
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect

PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
"""Of every connection that writes."""


class QuickWrites:
    """A connection to SQLite and a thread, for single transactions. A transaction of the usual way
    goes to the driver's thread and back for each of its steps, which costs a gateway more CPU than
    a short request does."""

    def __init__(self, path: str, lock_wait_s: float) -> None:
        self._path = path
        self._lock_wait_s = lock_wait_s
        self._thread = ThreadPoolExecutor(1, "quick-writes")
        self._connection: sqlite3.Connection | None = None
        self._compiled: dict[Insert, str] = {}

    async def insert(self, query: Insert, rows: Sequence[Mapping[str, Any]]) -> None:
        """All of them or none. `query` is one of few, made once, of plain columns."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._insert, query, rows)

    def close(self) -> None:
        """Ends the thread; may be called again. A transaction under way is let finish."""
        self._thread.shutdown()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _insert(self, query: Insert, rows: Sequence[Mapping[str, Any]]) -> None:
        if query not in self._compiled:
            compiled = query.compile(
                dialect=sqlite_dialect(paramstyle="named"), column_keys=list(rows[0])
            )
            self._compiled[query] = str(compiled)
        connection = self._opened()
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(self._compiled[query], rows)
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(
                self._path,
                timeout=self._lock_wait_s,
                isolation_level=None,
                check_same_thread=False,  # `close` may be called elsewhere
            )
            for pragma in PRAGMAS:
                self._connection.execute(f"PRAGMA {pragma}")
        return self._connection
