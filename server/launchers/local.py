"""Processes on this machine, each the leader of a group of its own.

A process gets the read end of a pipe whose write end only this process holds, so however this one
ends, the other learns it; or the read end of another's pipe (`ProcessSpec.life`), and outlives this
one. A lock file's descriptor is inherited, so the lock lives as long as anything of the process
does.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
from asyncio.subprocess import DEVNULL
from asyncio.subprocess import Process as AsyncioProcess
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from server.launchers.launcher import UNKNOWN_STATUS, LockHeldError, Process, ProcessSpec
from workers.contract.pid_files import holder

_POLL_S = 0.1


class _Group:
    """Ends a process and all it started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    async def wait(self) -> int:
        raise NotImplementedError

    async def terminate(self, grace_s: float) -> int:
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            return await self.wait()

    def _signal(self, number: signal.Signals) -> None:
        """What the leader left of its group is reached too. The group's number cannot be another's:
        it is taken as long as a member lives."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class LocalProcess(_Group):
    """Ends when this process does."""

    def __init__(self, process: AsyncioProcess, parent_end: int) -> None:
        super().__init__(process.pid)
        self._process = process
        self._parent_end: int | None = parent_end

    async def wait(self) -> int:
        status = await self._process.wait()
        if self._parent_end is not None:
            os.close(self._parent_end)
            self._parent_end = None
            self._signal(signal.SIGKILL)
        return status


class DetachedProcess(_Group):
    """Outlives this process, and may have been started by another. asyncio's own processes are
    killed by its clean-up; this one is only looked at."""

    def __init__(self, pid: int, poll: Callable[[], int | None]) -> None:
        """`poll` gives the status once the process has ended."""
        super().__init__(pid)
        self._poll = poll
        self._status: int | None = None

    async def wait(self) -> int:
        while self._status is None:
            if (status := self._poll()) is not None:
                self._signal(signal.SIGKILL)
                self._status = status
            else:
                await asyncio.sleep(_POLL_S)
        return self._status

    async def terminate(self, grace_s: float) -> int:
        if self._status is None and self._poll() is None:
            return await super().terminate(grace_s)
        return await self.wait()


class LocalLauncher:
    async def start(self, spec: ProcessSpec) -> Process:
        with ExitStack() as stack:
            inherited: list[int] = []
            if spec.lock is not None:
                lock = take_lock(spec.lock)
                stack.callback(os.close, lock)
                inherited.append(lock)
            if spec.life is not None:
                return _start_detached(spec, [*inherited, spec.life], spec.life)
            read_end, write_end = os.pipe()
            stack.callback(os.close, read_end)
            inherited.append(read_end)
            try:
                log = stack.enter_context(spec.log.open("ab"))
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

    def adopt(self, pid_file: Path) -> Process | None:
        pid = holder(pid_file)
        if pid is None:
            return None
        return DetachedProcess(pid, lambda: UNKNOWN_STATUS if holder(pid_file) is None else None)


def _start_detached(spec: ProcessSpec, inherited: list[int], life: int) -> Process:
    with spec.log.open("ab") as log:
        process = subprocess.Popen(
            spec.command(life),
            stdin=subprocess.DEVNULL if spec.stdin is None else spec.stdin,
            stdout=log,
            stderr=log,
            pass_fds=inherited,
            start_new_session=True,
            env={**os.environ, **spec.env},
        )
    return DetachedProcess(process.pid, process.poll)


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
