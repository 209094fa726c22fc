"""Blobs in one directory of this machine.

Written to a temporary name, synced, and renamed, so a crash leaves either the whole blob or a
temporary file that is removed after a day. Copies are hard links: blobs never change.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal, TypeVar

from server.blobs.storage import StorageFullError

T = TypeVar("T")

_CHUNK_BYTES = 256 * 1024
_WRITE_BYTES = 1024 * 1024
"""Written at a time, so that a thread is not woken for every network packet."""
_KEY = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def _room_needed() -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFullError(f"no room left: {error.strerror}") from error
        raise


class LocalBlobs:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._unfinished = root / "unfinished"
        self._unfinished.mkdir(parents=True, exist_ok=True)

    async def create(self, key: str) -> LocalBlobWriter:
        target = self._path(key)
        beside = self._unfinished / secrets.token_hex(8)
        with _room_needed():
            file = await _opened(beside, "xb")
        return LocalBlobWriter(file, beside, target)

    async def read(self, key: str) -> AsyncGenerator[bytes]:
        file = await _opened(self._path(key), "rb")
        try:
            while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                yield chunk
        finally:
            file.close()

    async def copy(self, source: str, target: str) -> None:
        await self.fetch(source, self._path(target))

    async def fetch(self, key: str, path: Path) -> None:
        await asyncio.to_thread(_link, self._path(key), path)

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self._path(key).unlink, missing_ok=True)

    async def remove_abandoned(self, untouched_s: float) -> None:
        """What crashed writers left: unfinished files that nobody has written to for so long."""
        await asyncio.to_thread(self._remove_abandoned, time.time() - untouched_s)

    def _remove_abandoned(self, before: float) -> None:
        for path in self._unfinished.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()

    def _path(self, key: str) -> Path:
        if _KEY.fullmatch(key) is None:
            raise ValueError(f"not a blob key: {key!r}")
        return self._root / key


class LocalBlobWriter:
    def __init__(self, file: IO[bytes], beside: Path, target: Path) -> None:
        self._file = file
        self._beside = beside
        self._target = target
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    async def write(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes >= _WRITE_BYTES:
            await self._run(self._flush)

    async def commit(self) -> None:
        await self._run(self._commit)

    async def discard(self) -> None:
        await asyncio.to_thread(self._discard)

    async def _run(self, work: Callable[[], T]) -> T:
        with _room_needed():
            return await asyncio.to_thread(work)

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        self._file.write(data)

    def _commit(self) -> None:
        self._flush()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        _make_folder(self._target.parent)
        self._beside.rename(self._target)
        _sync_folder(self._target.parent)

    def _discard(self) -> None:
        self._pending.clear()
        # Closing writes what is buffered, which a full disk refuses again.
        with suppress(OSError):
            self._file.close()
        self._beside.unlink(missing_ok=True)


async def _opened(path: Path, mode: Literal["rb", "xb"]) -> IO[bytes]:
    """Is closed again if whoever waits for it is cancelled."""
    opening: asyncio.Task[IO[bytes]] = asyncio.create_task(asyncio.to_thread(open, path, mode))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise


def _close(opening: asyncio.Task[IO[bytes]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _link(source: Path, target: Path) -> None:
    with _room_needed():
        _make_folder(target.parent)
        target.unlink(missing_ok=True)
        os.link(source, target)
        _sync_folder(target.parent)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
