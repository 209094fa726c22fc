"""A run on a full disk: what it has to write waits until there is room, and the run says so."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from workers.contract.training import Warned
from workers.trainer.events import UNSENT, EventLog
from workers.trainer.failures import is_no_room
from workers.trainer.placing import placed, remove, size_of
from workers.trainer.stopping import StopRequest

T = TypeVar("T")

WAITS = "Saving waits: there is no room left on the server's disk."
GOES_ON = "Saved: there is room on the server's disk again."
_FIRST_PAUSE_S = 0.5
_LAST_PAUSE_S = 5.0
_MAX_POLLS = 12
_SLACK_BYTES = 64 * 1024
_PROBE_BYTES = 64 * 1024


class Room:
    def __init__(self, log: EventLog, stop: StopRequest) -> None:
        self._log = log
        self._stop = stop

    def place(self, target: Path, write: Callable[[Path], object]) -> None:
        """`write` makes the file or directory at the path that it is given; it is done again from
        the start once there is room. Raises StopRequested while it waits."""
        needed = 0

        def place_once() -> None:
            nonlocal needed
            with placed(target) as partial:
                try:
                    write(partial)
                except Exception as error:
                    lacked_room = _lacked_room(error, partial.parent)
                    needed = size_of(partial) + _SLACK_BYTES
                    remove(partial)  # whoever else waits for room has it meanwhile
                    if lacked_room and not is_no_room(error):
                        raise OSError(errno.ENOSPC, "no room left") from error
                    raise

        self.insist(target.parent, place_once, lambda: needed)

    def insist(
        self, folder: Path, work: Callable[[], T], needed_bytes: Callable[[], int] = lambda: 0
    ) -> T:
        """Until `work` finds room. `needed_bytes` is what it needs as far as is known: before that
        much is free it is seldom tried again. Raises StopRequested while it waits."""
        pause_s, waits = _FIRST_PAUSE_S, False
        while True:
            try:
                result = work()
            except Exception as error:
                if not is_no_room(error):
                    raise
            else:
                break
            if not waits:
                waits = True
                self._warn(WAITS)
            for _ in range(_MAX_POLLS):
                self._stop.check()
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LAST_PAUSE_S)
                if _free_bytes(folder) >= needed_bytes():
                    break
        if waits:
            self._warn(GOES_ON)
        return result

    def _warn(self, message: str) -> None:
        self._log.emit(Warned(seq=UNSENT, at=UNSENT, message=message), waits=False)


def _lacked_room(error: Exception, folder: Path) -> bool:
    """PyTorch does not say why it could not write; a disk that takes nothing more is why."""
    if is_no_room(error):
        return True
    probe = folder / f".probe-{os.getpid()}"
    try:
        probe.write_bytes(b"\0" * _PROBE_BYTES)
    except OSError as fault:
        return is_no_room(fault)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return False


def _free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
