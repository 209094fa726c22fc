"""Room on the database's disk that is kept for what makes room.

SQLite writes before anything is freed, so on a full disk nothing could be deleted. A file of a few
megabytes is kept beside the database and given up when a delete finds the disk full.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

RESERVE_BYTES = 4 * 1024 * 1024
"""Some hundred deletes."""
_LOW_BYTES = 1024 * 1024


class Reserve:
    def __init__(self, path: Path, num_bytes: int = RESERVE_BYTES) -> None:
        self._path = path
        self._num_bytes = num_bytes

    def keep(self) -> bool:
        """Whether the reserve is there, made now if there is room for it. Blocking."""
        if self._path.exists():
            return True
        beside = self._path.with_suffix(".new")
        try:
            with beside.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._num_bytes)
            beside.rename(self._path)
        except OSError:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            return False
        return True

    def give_up_if_needed(self) -> None:
        """Before a write that must not fail for want of room. Blocking, for microseconds."""
        with suppress(OSError):
            disk = os.statvfs(self._path.parent)
            if disk.f_bavail * disk.f_frsize < _LOW_BYTES:
                self._path.unlink(missing_ok=True)
