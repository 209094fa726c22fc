"""Asks the run to leave: on SIGTERM or SIGINT, or when the parent process is gone."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from workers.trainer.failures import StopRequested


class StopRequest:
    """Set once, from a signal handler or a thread; read between units of work."""

    def __init__(self) -> None:
        self._requested = False

    @property
    def requested(self) -> bool:
        return self._requested

    def set(self) -> None:
        self._requested = True

    def check(self) -> None:
        """Raises StopRequested."""
        if self._requested:
            raise StopRequested

    def listen(self, parent_fd: int | None) -> None:
        """`parent_fd` is the read end of a pipe nobody writes to: its end is the parent's end."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            self.set()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        if parent_fd is not None:
            thread = threading.Thread(
                target=self._await_end, args=(parent_fd,), name="parent", daemon=True
            )
            thread.start()

    def _await_end(self, parent_fd: int) -> None:
        try:
            while os.read(parent_fd, 1024):
                pass
        except OSError:
            pass
        self.set()
