"""A worker's pid file: how one that did not start it tells that it lives, and which process it is.

The worker keeps the file locked, and the lock ends with its life, however that ends. So the number
in a file that is locked is never another process's.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

_MAX_DIGITS = 32


def hold(path: Path) -> int:
    """Makes the file this process's. The descriptor is to stay open. Raises OSError."""
    beside = path.with_name(f"{path.name}.new")
    descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, b"%d" % os.getpid())
    os.rename(beside, path)
    return descriptor


def holder(path: Path) -> int | None:
    """The number of the living process that holds the file; None if there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(descriptor, _MAX_DIGITS))
    finally:
        os.close(descriptor)
    return None
