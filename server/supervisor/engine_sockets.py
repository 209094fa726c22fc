"""Where an engine worker listens: beside its spec, or, where that path is longer than a socket's
address may be, in a short directory that belongs to this user and this run directory alone."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

_MAX_PATH_BYTES = 103
"""`sun_path` of `struct sockaddr_un` without its final zero: 104 on BSD and macOS, 108 on Linux."""
_SHORT_FOLDER = Path("/tmp")


def socket_path(run_dir: Path, engine_id: str) -> Path:
    name = f"{engine_id}.sock"
    path = run_dir.absolute() / name
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        return path
    digest = hashlib.blake2s(os.fsencode(run_dir.resolve()), digest_size=8).hexdigest()
    return _SHORT_FOLDER / f"tuneyard-{os.getuid()}-{digest}" / name


def make_folder(socket: Path) -> None:
    """Raises PermissionError when another user made a directory of that name first."""
    folder = socket.parent
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not is_ours or found.st_mode & 0o077:
        raise PermissionError(
            f"{folder}, where engines listen, is not this user's own. Remove it, or choose a data "
            f"directory whose path is shorter than {_MAX_PATH_BYTES} bytes."
        )
