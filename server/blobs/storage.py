"""What a blob store does. Keys are ours (`file-...`, `jobs/<id>/training`), never a caller's.

A blob is immutable: it appears whole when its writer is committed, or not at all.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol


class StorageFullError(Exception):
    """There is no room for what was to be written; nothing was kept of it."""


class BlobWriter(Protocol):
    async def write(self, data: bytes) -> None:
        """Raises StorageFullError."""
        ...

    async def commit(self) -> None:
        """Makes the blob appear, durably. Raises StorageFullError."""
        ...

    async def discard(self) -> None:
        """Forgets what was written; after `commit` it does nothing."""
        ...


class Blobs(Protocol):
    async def create(self, key: str) -> BlobWriter: ...

    def read(self, key: str) -> AsyncGenerator[bytes]:
        """Raises FileNotFoundError on the first chunk."""
        ...

    async def copy(self, source: str, target: str) -> None:
        """Raises FileNotFoundError, StorageFullError."""
        ...

    async def fetch(self, key: str, path: Path) -> None:
        """Puts the blob at a path of this machine, to be read only. Raises FileNotFoundError,
        StorageFullError."""
        ...

    async def delete(self, key: str) -> None:
        """A missing blob is as good as deleted."""
        ...

    async def remove_abandoned(self, untouched_s: float) -> None:
        """Frees what crashed writers left and nobody has written to for so long."""
        ...
