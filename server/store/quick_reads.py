"""The few reads that requests wait for again and again, in one trip to a thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Select
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect


class QuickReads:
    """A connection to SQLite and a thread, for single statements. The statement itself takes some
    microseconds; a transaction of the usual way goes to the driver's thread and back for each of
    its steps, which costs a gateway that is not busy more CPU than its requests do."""

    def __init__(self, path: str, busy_timeout_s: float) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._thread = ThreadPoolExecutor(1, "quick-reads")
        self._connection: sqlite3.Connection | None = None
        self._compiled: dict[Select[*tuple[Any, ...]], tuple[str, Mapping[str, Any]]] = {}

    async def fetch(self, query: Select[*tuple[Any, ...]], values: Mapping[str, Any]) -> list[Any]:
        """The rows, by the names of their columns, as the database has them: SQLAlchemy's types do
        not convert them. `query` is one of few, made once."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._fetch, query, values)

    def close(self) -> None:
        """Ends the thread; may be called again. A statement under way is let finish."""
        self._thread.shutdown()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _fetch(self, query: Select[*tuple[Any, ...]], values: Mapping[str, Any]) -> list[Any]:
        if query not in self._compiled:
            compiled = query.compile(dialect=sqlite_dialect(paramstyle="named"))
            self._compiled[query] = str(compiled), compiled.params
        text, constants = self._compiled[query]
        if self._connection is None:
            self._connection = sqlite3.connect(
                self._path,
                timeout=self._busy_timeout_s,
                isolation_level=None,
                check_same_thread=False,  # `close` may be called elsewhere
            )
            self._connection.execute("PRAGMA query_only=ON")
        cursor = self._connection.execute(text, {**constants, **values})
        names = [column[0] for column in cursor.description]
        return [SimpleNamespace(**dict(zip(names, row, strict=True))) for row in cursor]
