"""Where weights that are served live: one directory per content, never changed once there.

They are brought beside and renamed, so a directory is whole or absent. A trainer's output is linked
(or copied), and the trainer may tidy up its own. An operator's files are copied, as those may be
written over in their place.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

_READ_BYTES = 1024 * 1024
_DIGEST_BYTES = 16


def install(source: Path, root: Path) -> Path:
    """Blocking: reads all of `source`. Returns the directory under `root`."""
    target = root / _digest(source)
    if not target.is_dir():
        with _beside(root) as folder:
            shutil.copytree(source, folder, copy_function=_link_or_copy)
            _settle(folder, target)
    return target


def install_copy(source: Path, names: Sequence[str], root: Path) -> Path:
    """Only the files of those names. Blocking. Raises OSError."""
    with _beside(root) as folder:
        folder.mkdir()
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)
        # Of the copy: the source may change meanwhile.
        target = root / _digest(folder)
        if not target.is_dir():
            _settle(folder, target)
    return target


@contextmanager
def _beside(root: Path) -> Generator[Path]:
    """A new place in the same file system, where nothing is left behind."""
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f".{secrets.token_hex(8)}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settle(folder: Path, target: Path) -> None:
    _sync(folder)
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    _sync_folder(target.parent)


def _digest(source: Path) -> str:
    """Over names and bytes of all files."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        name = path.relative_to(source).as_posix().encode()
        digest.update(len(name).to_bytes(8, "big") + name)
        digest.update(path.stat().st_size.to_bytes(8, "big"))
        with path.open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
