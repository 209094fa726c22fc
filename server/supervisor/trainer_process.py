"""One trainer process of one job: started on its spec, its event file read until it has ended."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

from server.launchers import Launcher, Process, ProcessSpec
from server.launchers.launcher import LockHeldError
from server.supervisor.run_log import RunLogReader
from server.supervisor.warm_trainer import WarmTrainer
from workers.contract.training import TrainEvent, TrainSpec

logger = logging.getLogger(__name__)

READ_INTERVAL_S = 0.2
SILENCE_LIMIT_S = 120.0
"""Trainers report at least every 5 s; one that is silent for so long hangs."""
LEAVING_LIMIT_S = 60.0
"""For a trainer to finish its step, save its state and leave."""
SHUTDOWN_LIMIT_S = 6.0
"""The same while everything shuts down; a trainer that is ended then goes on from its last save."""

Take = Callable[[Sequence[TrainEvent], bool], Awaitable[bool]]
"""Takes in new events, the last of them if the flag says so; False: the trainer is to leave."""


class TrainerProcess:
    def __init__(
        self, launcher: Launcher, spares: WarmTrainer, python: str | None, output_dir: Path
    ) -> None:
        self._launcher = launcher
        self._spares = spares
        self._python = python or sys.executable
        self._output_dir = output_dir

    async def start(self, spec: TrainSpec) -> Process:
        """To be followed. Raises OSError, and then nothing was started."""
        spec_path = self._output_dir / "spec.json"
        spec_path.write_bytes(msgspec.json.encode(spec))
        process = await self._start(spec_path)
        with suppress(OSError):  # a full disk; the note serves to end a stray
            (self._output_dir / "pid").write_text(f"{process.pid} {psutil_started(process.pid)}")
        logger.info("trainer started", extra={"job": spec.job_id, "pid": process.pid})
        return process

    async def follow(self, process: Process, take: Take) -> int:
        """Its exit status; all its events have been taken by then. Cancelled, it has the trainer
        save its state and leave first."""
        reader = RunLogReader(self._output_dir / "events.ndjson")
        try:
            status = await self._follow(process, reader, take)
        except BaseException:
            await asyncio.shield(process.terminate(SHUTDOWN_LIMIT_S))
            raise
        logger.info("trainer ended", extra={"pid": process.pid, "status": status})
        return status

    async def _start(self, spec_path: Path) -> Process:
        """Waits for a trainer of an earlier supervisor to leave: it has seen that one's end."""

        def command(parent_fd: int) -> list[str]:
            return [
                self._python,
                "-m",
                "workers.trainer",
                str(spec_path),
                "--parent-fd",
                str(parent_fd),
            ]

        log, lock = self._output_dir / "trainer.log", self._output_dir / "lock"
        start = ProcessSpec(command, log, lock=lock)
        deadline = time.monotonic() + LEAVING_LIMIT_S
        while True:
            try:
                warm = self._spares.take(spec_path, log, lock)
                return warm or await self._launcher.start(start)
            except LockHeldError:
                if time.monotonic() > deadline:
                    self._end_stray()
                await asyncio.sleep(READ_INTERVAL_S)

    def _end_stray(self) -> None:
        """The process noted in the job's directory, if it is still that very process."""
        try:
            pid, started = (self._output_dir / "pid").read_text().split()
            process = psutil.Process(int(pid))
            if f"{process.create_time():.2f}" == started:
                logger.warning("ending a stray trainer", extra={"pid": int(pid)})
                process.kill()
        except (OSError, ValueError, psutil.Error):
            return

    async def _follow(self, process: Process, reader: RunLogReader, take: Take) -> int:
        ended = asyncio.ensure_future(process.wait())
        last_event, last_change = time.monotonic(), 0.0
        leaving: asyncio.Task[int] | None = None
        try:
            while True:
                done, _ = await asyncio.wait([ended], timeout=READ_INTERVAL_S)
                events = await asyncio.to_thread(reader.read)
                # One that waits for room on its disk can only touch the file.
                change = await asyncio.to_thread(reader.changed_at)
                if events or change != last_change:
                    last_event, last_change = time.monotonic(), change
                stay = await take(events, bool(done))
                if done:
                    return ended.result()
                hangs = time.monotonic() - last_event > SILENCE_LIMIT_S
                if (not stay or hangs) and leaving is None:
                    grace_s = 0.0 if hangs else LEAVING_LIMIT_S
                    leaving = asyncio.create_task(process.terminate(grace_s))
        finally:
            ended.cancel()
            if leaving is not None:
                leaving.cancel()


def psutil_started(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return "0"
