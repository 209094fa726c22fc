"""Processes on this machine, each the leader of a group of its own.

A process gets the read end of a pipe whose write end only this process holds, so however this one
ends, the other learns it. A lock file's descriptor is inherited, so the lock lives as long as
anything of the process does.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from asyncio.subprocess import DEVNULL
from asyncio.subprocess import Process as AsyncioProcess
from contextlib import ExitStack, suppress

from server.launchers.launcher import LockHeldError, Process, ProcessSpec


class LocalProcess:
    def __init__(self, process: AsyncioProcess, parent_end: int) -> None:
        self._process = process
        self._parent_end: int | None = parent_end

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        status = await self._process.wait()
        self._clean_up()
        return status

    async def terminate(self, grace_s: float) -> int:
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            return await self.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _clean_up(self) -> None:
        """What the leader left of its group goes with it. The group's number cannot be another's:
        it is taken as long as a member lives."""
        if self._parent_end is not None:
            os.close(self._parent_end)
            self._parent_end = None
            self._signal(signal.SIGKILL)


class LocalLauncher:
    async def start(self, spec: ProcessSpec) -> Process:
        with ExitStack() as stack:
            inherited: list[int] = []
            if spec.lock is not None:
                lock = take_lock(spec.lock)
                stack.callback(os.close, lock)
                inherited.append(lock)
            read_end, write_end = os.pipe()
            stack.callback(os.close, read_end)
            inherited.append(read_end)
            log = stack.enter_context(spec.log.open("ab"))
            try:
                process = await asyncio.create_subprocess_exec(
                    *spec.command(read_end),
                    stdin=DEVNULL if spec.stdin is None else spec.stdin,
                    stdout=log,
                    stderr=log,
                    pass_fds=inherited,
                    start_new_session=True,
                    env={**os.environ, **spec.env},
                )
            except BaseException:
                os.close(write_end)
                raise
        return LocalProcess(process, write_end)


def take_lock(path: os.PathLike[str]) -> int:
    """A descriptor that holds the lock until its last copy is closed. Raises LockHeldError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LockHeldError(os.fspath(path)) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
