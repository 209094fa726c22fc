"""A trainer process that has its libraries imported and waits for the next job.

It is a process like any trainer's: a group of its own, ended by its parent's end. Taken, it gets
the job's log and lock, and nothing tells it from one that was started for the job. Without a spare
(none kept, not started again yet, ended) a trainer is started as ever.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from server.config import Training
from server.launchers import Launcher, Process, ProcessSpec
from server.launchers.local import take_lock

logger = logging.getLogger(__name__)

REFILL_AFTER_S = 1.0
"""The job that took the spare starts undisturbed."""
RETRY_AFTER_S = 30.0
"""A spare that ended untaken had a reason that may last."""
END_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class _Spare:
    process: Process
    channel: socket.socket
    ended: asyncio.Future[int]


class WarmTrainer:
    def __init__(self, launcher: Launcher, settings: Training, logs_dir: Path) -> None:
        self._launcher = launcher
        self._settings = settings
        self._log = logs_dir / "warm-trainer.log"
        self._spare: _Spare | None = None
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled; the spare is gone then."""
        if self._settings.warm_trainers == 0:
            return
        try:
            while True:
                await asyncio.sleep(REFILL_AFTER_S)
                await self._keep_one()
        finally:
            if self._spare is not None:
                await asyncio.shield(self._discard(self._spare))

    async def _keep_one(self) -> None:
        """Until it has been taken, or has ended and a while has passed."""
        self._wanted.clear()
        try:
            spare = self._spare = await self._start()
        except OSError as error:
            logger.warning("no warm trainer", extra={"reason": str(error)})
            await asyncio.sleep(RETRY_AFTER_S)
            return
        taken = asyncio.create_task(self._wanted.wait())
        try:
            await asyncio.wait([spare.ended, taken], return_when=asyncio.FIRST_COMPLETED)
        finally:
            taken.cancel()
        if not self._wanted.is_set():
            await self._discard(spare)
            logger.warning("the warm trainer ended", extra={"status": spare.ended.result()})
            await asyncio.sleep(RETRY_AFTER_S)

    async def _start(self) -> _Spare:
        python = self._settings.python or sys.executable

        def command(parent_fd: int) -> list[str]:
            return [python, "-m", "workers.trainer", "--wait", "--parent-fd", str(parent_fd)]

        ours, theirs = socket.socketpair()
        try:
            spec = ProcessSpec(command, self._log, stdin=theirs.fileno())
            process = await self._launcher.start(spec)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return _Spare(process, ours, asyncio.ensure_future(process.wait()))

    async def _discard(self, spare: _Spare) -> None:
        self._spare = None
        spare.channel.close()
        await spare.process.terminate(END_GRACE_S)
        await asyncio.wait([spare.ended])

    def take(self, spec_path: Path, log: Path, lock: Path) -> Process | None:
        """The spare at work on the job, None if there is none. Raises LockHeldError."""
        spare = self._spare
        if spare is None or spare.ended.done():
            return None
        held = take_lock(lock)
        try:
            with log.open("ab") as output:
                descriptors = [output.fileno(), held]
                socket.send_fds(spare.channel, [os.fsencode(spec_path)], descriptors)
        except OSError:
            return None
        finally:
            os.close(held)
        spare.channel.close()
        self._spare = None
        self._wanted.set()
        return spare.process
