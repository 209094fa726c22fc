"""Files and directories that are either whole or not there.

They are written beside their place under a hidden name, flushed, and renamed. A process killed in
between leaves only a partial, which the next one removes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL_SUFFIX = ".partial"


@contextmanager
def placed(target: Path) -> Generator[Path]:
    """A path to write a file or directory at, moved to `target` when the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}{_PARTIAL_SUFFIX}")
    remove(partial)
    yield partial
    _flush(partial)
    os.replace(partial, target)
    _flush_entry(target.parent)


def remove_partials(folder: Path) -> None:
    for partial in folder.glob(f".*{_PARTIAL_SUFFIX}"):
        remove(partial)


def size_of(path: Path) -> int:
    """Of a file, or of all files in a directory; 0 for what is not there."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _flush(child)
    _flush_entry(path)


def _flush_entry(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
