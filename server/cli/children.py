"""Child processes of the root: started again when they die, ended when it leaves.

A child gets the read end of a pipe whose other end only the root holds, so it learns when the root
is gone however that came about. Each leads a process group of its own, so Ctrl-C at a terminal
reaches the root alone, and the root decides who ends when.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from server.config import SETTING_VARIABLES

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 15.0
STEADY_AFTER_S = 30.0
"""A child that lived this long starts again without delay."""
GRACE_S = 8.0
"""Between asking a child to leave and killing its group."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    name: str
    command: Callable[[int], Sequence[str]]
    """The command line, given the number of the parent pipe's descriptor."""
    log: Path
    grace_s: float = GRACE_S
    inherited: tuple[int, ...] = ()
    """Descriptors the child keeps."""
    stop_signal: signal.Signals = signal.SIGTERM


class Child:
    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.num_starts = 0
        self._process: Process | None = None
        self._leaving = False

    async def run(self) -> None:
        """Keeps the child running until cancelled or told to `stop`."""
        backoff_s = FIRST_BACKOFF_S
        while not self._leaving:
            started = time.monotonic()
            try:
                outcome: dict[str, object] = {"status": await self._run_once()}
            except OSError as error:  # no room for its log, no more processes: that passes
                outcome = {"reason": str(error)}
            if self._leaving:
                return
            if time.monotonic() - started > STEADY_AFTER_S:
                backoff_s = FIRST_BACKOFF_S
            logger.error(
                "child process ended",
                extra={"child": self.spec.name, "restart_in_s": backoff_s, **outcome},
            )
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)

    async def stop(self) -> None:
        """Asks the child to leave; kills what is left of its group after its grace."""
        self._leaving = True
        process = self._process
        if process is None:
            return
        _signal_group(process.pid, self.spec.stop_signal)
        try:
            async with asyncio.timeout(self.spec.grace_s):
                await process.wait()
        except TimeoutError:
            logger.error("child process had to be killed", extra={"child": self.spec.name})
        _signal_group(process.pid, signal.SIGKILL)
        await process.wait()

    def hurry(self) -> None:
        """Asks again, of a child that is slow to leave because it still has work."""
        if self._process is not None:
            _signal_group(self._process.pid, signal.SIGTERM)

    async def _run_once(self) -> int:
        read_end, write_end = os.pipe()
        try:
            with self.spec.log.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *self.spec.command(read_end),
                    stdin=DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(read_end, *self.spec.inherited),
                    start_new_session=True,
                    env={k: v for k, v in os.environ.items() if k not in SETTING_VARIABLES},
                )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        self._process = process
        self.num_starts += 1
        try:
            status = await process.wait()
        finally:
            os.close(write_end)
        _signal_group(process.pid, signal.SIGKILL)
        self._process = None
        return status


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
