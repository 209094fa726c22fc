"""What has become of a batch's lines so far: a file that is only appended to.

A line has ended once its result is in the file and the file is synced; results that come while
others are being written are written together. What a crash cut off is cut away at the next opening,
and its line is run again.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from server.store.batches import BatchCounts

logger = logging.getLogger(__name__)

_RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class Result:
    """`record` is the line of the output or error file, without its end."""

    line: int
    counts: BatchCounts
    record: bytes


class JournalInUseError(Exception):
    """Another process of this machine has it open."""


class Journal:
    """Blocks on opening and on `results`; `add` may be called by many at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise JournalInUseError from None
        self.done: set[int] = set()
        self.counts = BatchCounts()
        self._size = 0
        for result, end in _read(path):
            self.done.add(result.line)
            self.counts = self.counts.plus(result.counts)
            self._size = end
        os.ftruncate(self._descriptor, self._size)
        self._waiting: list[tuple[Result, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def add(self, result: Result) -> None:
        """Returns once it is there to stay. While the disk takes nothing, it waits."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((result, written))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())
        await written

    async def drain(self) -> None:
        """Waits for what has been given to `add`."""
        while self._writer is not None:
            await asyncio.wait([self._writer])

    def results(self) -> Iterator[Result]:
        """In the order in which they came."""
        return (result for result, _ in _read(self._path))

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.cancel()
            with suppress(asyncio.CancelledError):
                await self._writer
        os.close(self._descriptor)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                await self._write([result for result, _ in group])
                for result, written in group:
                    self.done.add(result.line)
                    self.counts = self.counts.plus(result.counts)
                    if not written.done():
                        written.set_result(None)
        finally:
            self._writer = None

    async def _write(self, results: list[Result]) -> None:
        data = b"".join(map(_encode, results))
        writing = asyncio.ensure_future(asyncio.to_thread(self._append, data))
        while True:
            try:
                await asyncio.shield(writing)
                return
            except asyncio.CancelledError:
                await asyncio.wait([writing])
                raise
            except OSError as error:
                logger.error("a batch's results cannot be written", extra={"reason": str(error)})
                await asyncio.sleep(_RETRY_S)
                writing = asyncio.ensure_future(asyncio.to_thread(self._append, data))

    def _append(self, data: bytes) -> None:
        """All of it, or none."""
        try:
            at = self._size
            while at < self._size + len(data):
                at += os.pwrite(self._descriptor, data[at - self._size :], at)
            os.fdatasync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)


def _encode(result: Result) -> bytes:
    numbers = [result.line, *result.counts.values().values()]
    return b" ".join([*(b"%d" % number for number in numbers), result.record]) + b"\n"


def _read(path: Path) -> Iterator[tuple[Result, int]]:
    """With where each ends; the first that is not whole is the end."""
    num_numbers = 1 + len(BatchCounts().values())
    end = 0
    with open(path, "rb") as file:
        for text in file:
            parts = text.split(b" ", num_numbers)
            if not text.endswith(b"\n") or len(parts) != num_numbers + 1:
                return
            end += len(text)
            line, *counts = map(int, parts[:num_numbers])
            yield Result(line, BatchCounts(*counts), parts[-1][:-1]), end
