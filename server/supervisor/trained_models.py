"""Where trained weights live: one directory per content, never changed once there.

A trainer's output is linked (or copied) beside and renamed, so a directory is whole or absent, and
the trainer may tidy up its own.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from pathlib import Path

_READ_BYTES = 1024 * 1024
_DIGEST_BYTES = 16


def install(source: Path, root: Path) -> Path:
    """Blocking: reads all of `source`. Returns the directory under `root`."""
    target = root / _digest(source)
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    beside = root / f".{secrets.token_hex(8)}"
    try:
        shutil.copytree(source, beside, copy_function=_link_or_copy)
        _sync(beside)
        try:
            beside.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    _sync_folder(root)
    return target


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
