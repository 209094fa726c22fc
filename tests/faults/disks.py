"""A small disk of its own: a tmpfs. Tests run as root, in CI too; where they do not, they fail."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_CHUNK_BYTES = 64 * 1024


class SmallDisk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filling = folder / "filling"

    def fill(self) -> None:
        """To the last block."""
        size = _CHUNK_BYTES
        with self._filling.open("ab", buffering=0) as file:
            while size:
                try:
                    file.write(b"\0" * size)
                except OSError:
                    size //= 2

    def make_room(self) -> None:
        self._filling.unlink()


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Generator[SmallDisk]:
    folder.mkdir(parents=True)
    options = f"size={num_bytes}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
