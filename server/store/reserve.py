"""Room on the database's disk that is kept for what makes room.

SQLite writes before anything is freed, so on a full disk nothing could be deleted. A file of a few
megabytes is kept beside the database; a write that makes room takes a piece of it on a full disk,
and gives back what it did not need.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

RESERVE_BYTES = 4 * 1024 * 1024
"""Some dozens of deletes."""
_PIECE_BYTES = 256 * 1024
"""More than a transaction of some rows takes."""
_STEP_BYTES = 32 * 1024
_LOW_BYTES = 1024 * 1024


class Reserve:
    """All of it blocks, for microseconds but for the first `keep`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def num_bytes(self) -> int:
        """What is kept now."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def keep(self) -> None:
        """All of it, or as much as there is room for."""
        self._grow(RESERVE_BYTES)

    @contextmanager
    def lent(self) -> Generator[None]:
        """For a write that is not to fail for want of room."""
        before = self.num_bytes
        if before == 0 or not self._is_low():
            yield
            return
        with suppress(OSError):
            os.truncate(self._path, max(before - _PIECE_BYTES, 0))
        try:
            yield
        finally:
            self._grow(before)

    def _is_low(self) -> bool:
        with suppress(OSError):
            disk = os.statvfs(self._path.parent)
            return disk.f_bavail * disk.f_frsize < _LOW_BYTES
        return False

    def _grow(self, num_bytes: int) -> None:
        kept = self.num_bytes
        with suppress(OSError), self._path.open("ab") as file:
            for wanted in range(num_bytes, kept, -_STEP_BYTES):
                try:
                    os.posix_fallocate(file.fileno(), 0, wanted)
                    return
                except OSError:
                    os.ftruncate(file.fileno(), kept)
