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
from contextlib import contextmanager
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

HEARTBEAT_INTERVAL_S = 4.0
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
    """Numbers, dates and appends events; safe to call from several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.history = self._recover(path)
        self._seq = self.history.last_seq

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

    def emit(self, event: TrainEvent) -> None:
        with self._lock:
            self._seq += 1
            stamped = msgspec.structs.replace(event, seq=self._seq, at=time.time())
            line = msgspec.json.encode(stamped) + b"\n"
            while line:
                line = line[os.write(self._fd, line) :]
            self.history.add(stamped)
            if isinstance(event, _DURABLE):
                os.fsync(self._fd)

    @contextmanager
    def heartbeat(self, interval_s: float = HEARTBEAT_INTERVAL_S) -> Generator[None]:
        """Beats from a thread of its own until the block is left; none follows."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(interval_s):
                self.emit(Heartbeat(seq=UNSENT, at=UNSENT))

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def close(self) -> None:
        os.close(self._fd)
