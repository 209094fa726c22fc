"""Keeping finished answers: those that end while others are being written are written together.

An answer is kept before its caller sees it whole, so that it can be gone on from at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from server.errors import ApiError, InternalError
from server.faults import answer_to

logger = logging.getLogger(__name__)

MAX_STORED_BYTES = 8 * 1024 * 1024
"""Of an answer and what it answers, and of those that are written together."""
_MAX_WRITTEN_AT_ONCE = 64
_DAY_S = 24 * 3600

WhenKept = Callable[[ApiError | None], None]


RowT = TypeVar("RowT")


class Keeper(Generic[RowT]):
    """Every row given to `keep` is waited for by a request, so no more than those wait."""

    def __init__(self, add: Callable[[list[RowT]], Awaitable[None]], days: float) -> None:
        """`add` writes rows in one transaction."""
        self.lifetime_s = int(days * _DAY_S)
        self._add_rows = add
        self._waiting: deque[tuple[RowT, int, WhenKept]] = deque()
        self._writer: asyncio.Task[None] | None = None

    def keep(self, row: RowT, num_bytes: int, when_kept: WhenKept) -> None:
        """Calls `when_kept` with what went wrong, or None. `num_bytes` are those of the answer
        and what it answers."""
        self._waiting.append((row, num_bytes, when_kept))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())

    async def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            await self._writer

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch = self._next_batch()
                error = await self._add([row for row, _ in batch])
                for _, when_kept in batch:
                    _tell(when_kept, error)
        finally:
            self._writer = None

    def _next_batch(self) -> list[tuple[RowT, WhenKept]]:
        batch: list[tuple[RowT, WhenKept]] = []
        room = MAX_STORED_BYTES
        while self._waiting and len(batch) < _MAX_WRITTEN_AT_ONCE:
            row, num_bytes, when_kept = self._waiting[0]
            room -= num_bytes
            if batch and room < 0:
                break
            self._waiting.popleft()
            batch.append((row, when_kept))
        return batch

    async def _add(self, rows: list[RowT]) -> ApiError | None:
        try:
            await self._add_rows(rows)
        except Exception as error:
            answer = answer_to(error)
            if isinstance(answer, InternalError):
                logger.exception("answers cannot be kept")
            else:
                logger.error("answers cannot be kept", extra={"reason": str(error)})
            return answer
        return None


def _tell(when_kept: WhenKept, error: ApiError | None) -> None:
    """What one request does with it is nothing to the others."""
    try:
        when_kept(error)
    except Exception:
        logger.exception("a response that was kept could not be sent")
