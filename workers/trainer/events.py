"""The run's event file: one JSON object a line, appended and never rewritten.

Numbers go on across restarts. A run that resumes passes again over steps it had already reported
when it was killed; `EventHistory` says which, so that every step, evaluation and checkpoint is
reported once.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from workers.contract.training import (
    CheckpointSaved,
    Completed,
    Evaluated,
    Heartbeat,
    Step,
    Stopped,
    TrainEvent,
    TrainFailed,
)
from workers.trainer.failures import is_no_room
from workers.trainer.stopping import StopRequest

HEARTBEAT_INTERVAL_S = 4.0
_ROOM_POLL_S = 1.0
UNSENT: Final = 0
"""`seq` and `at` of an event that the log has yet to number and date."""

_DURABLE = (CheckpointSaved, Stopped, Completed, TrainFailed)
_decoder = msgspec.json.Decoder(TrainEvent)


@dataclass(slots=True)
class EventHistory:
    """What earlier processes of the run have reported."""

    last_seq: int = 0
    last_step: int = 0
    last_evaluated_step: int = 0
    checkpoint_steps: set[int] = field(default_factory=set[int])
    completed: bool = False

    def add(self, event: TrainEvent) -> None:
        self.last_seq = event.seq
        match event:
            case Step():
                self.last_step = max(self.last_step, event.step)
            case Evaluated():
                self.last_evaluated_step = max(self.last_evaluated_step, event.step)
            case CheckpointSaved():
                self.checkpoint_steps.add(event.step)
            case Completed():
                self.completed = True
            case _:
                pass


class EventLog:
    """Numbers, dates and appends events; safe to call from several threads. On a full disk events
    wait in memory, and the file is touched instead: its reader takes that for a sign of life."""

    def __init__(self, path: Path, stop: StopRequest | None = None) -> None:
        self._lock = threading.Lock()
        self._stop = stop or StopRequest()
        self._fd = self._open(path)
        self.history = self._recover(path)
        self._seq = self.history.last_seq
        self._unwritten = b""
        """Of events that are numbered."""

    def _open(self, path: Path) -> int:
        """Raises StopRequested while it waits for room."""
        while True:
            try:
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            except OSError as error:
                if not is_no_room(error):
                    raise
            self._stop.check()
            time.sleep(_ROOM_POLL_S)

    def _recover(self, path: Path) -> EventHistory:
        """Cuts off a line that a killed process left unfinished: no reader has taken it."""
        history = EventHistory()
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._fd, whole)
        for line in content[:whole].splitlines():
            history.add(_decoder.decode(line))
        return history

    def emit(self, event: TrainEvent, *, waits: bool = True) -> None:
        """Returns once it is written, unless it `waits` for no room. Raises StopRequested while it
        does."""
        with self._lock:
            self._seq += 1
            stamped = msgspec.structs.replace(event, seq=self._seq, at=time.time())
            self._unwritten += msgspec.json.encode(stamped) + b"\n"
            self.history.add(stamped)
        is_durable = isinstance(event, _DURABLE)
        while not self._write(is_durable) and waits:
            self._stop.check()
            time.sleep(_ROOM_POLL_S)

    def _write(self, is_durable: bool = False) -> bool:
        """Whether all is written by now."""
        with self._lock:
            try:
                while self._unwritten:
                    self._unwritten = self._unwritten[os.write(self._fd, self._unwritten) :]
                if is_durable:
                    os.fsync(self._fd)
            except OSError as error:
                if not is_no_room(error):
                    raise
                with suppress(OSError):
                    os.utime(self._fd)
                return False
        return True

    @contextmanager
    def heartbeat(self, interval_s: float = HEARTBEAT_INTERVAL_S) -> Generator[None]:
        """Beats from a thread of its own until the block is left; none follows."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(interval_s):
                if self._write():  # else it is touched, and one more line would only wait too
                    self.emit(Heartbeat(seq=UNSENT, at=UNSENT), waits=False)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def close(self) -> None:
        os.close(self._fd)
