"""A trainer that is started before its job: it imports what training needs, then waits to be told.

It is told on standard input, a socket whose other end its parent holds: one message with the path
of the spec, and with it two descriptors, the log to write to and the lock to hold. The end of the
socket is the parent's end.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import threading
from pathlib import Path

_MODULES = ("curves", "exports", "loop", "models", "optimisation", "preparation", "state")
_MAX_PATH_BYTES = 4096
_NUM_DESCRIPTORS = 2


def await_spec(parent_fd: int | None) -> Path | None:
    """The spec's path, with log and lock in place; None when the parent left without a job. Its
    end while imports are under way, as `parent_fd` tells, ends this process at once."""
    taken = threading.Event()
    if parent_fd is not None:
        threading.Thread(target=_leave_with_parent, args=(parent_fd, taken), daemon=True).start()
    for name in _MODULES:
        importlib.import_module(f"workers.trainer.{name}")
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as channel:
        message, descriptors, _, _ = socket.recv_fds(channel, _MAX_PATH_BYTES, _NUM_DESCRIPTORS)
    if not message:
        return None
    taken.set()
    log, lock = descriptors
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    os.close(log)
    # What the run starts holds the lock too.
    os.set_inheritable(lock, True)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)
    return Path(os.fsdecode(message))


def _leave_with_parent(parent_fd: int, taken: threading.Event) -> None:
    while os.read(parent_fd, 1024):
        pass
    if not taken.is_set():
        os._exit(0)
