from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from server.launchers import LocalLauncher, Process, ProcessSpec
from server.launchers.launcher import LockHeldError
from tests.jobs.live import wait_until

_CHILD = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '600']); "


def spec_of(folder: Path, code: str, lock: Path | None = None) -> ProcessSpec:
    def command(parent_fd: int) -> Sequence[str]:
        return [sys.executable, "-c", code, str(parent_fd)]

    return ProcessSpec(command, folder / "log", lock=lock, env={"COLOUR": "red"})


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def grandchild_of(process: Process, log: Path) -> int:
    while not log.exists() or not log.read_text().strip():
        await asyncio.sleep(0.05)
    return int(log.read_text().split()[0])


async def test_output_environment_and_status_are_those_of_the_process(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['COLOUR'], 'PATH' in os.environ); sys.exit(3)"
    process = await LocalLauncher().start(spec_of(tmp_path, code))
    assert await process.wait() == 3
    assert (tmp_path / "log").read_text() == "red True\n"


async def test_a_process_that_will_not_leave_is_ended_with_its_children(tmp_path: Path) -> None:
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        + _CHILD
        + "print(p.pid, flush=True); time.sleep(600)"
    )
    process = await LocalLauncher().start(spec_of(tmp_path, code))
    grandchild = await grandchild_of(process, tmp_path / "log")
    assert await process.terminate(0.3) == -9
    wait_until(lambda: not lives(grandchild))


async def test_what_a_process_leaves_behind_goes_with_it(tmp_path: Path) -> None:
    process = await LocalLauncher().start(spec_of(tmp_path, _CHILD + "print(p.pid, flush=True)"))
    grandchild = await grandchild_of(process, tmp_path / "log")
    assert await process.wait() == 0
    wait_until(lambda: not lives(grandchild))


async def test_a_lock_is_held_until_the_process_is_gone(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    launcher = LocalLauncher()
    first = await launcher.start(spec_of(tmp_path, "import time; time.sleep(600)", lock))
    with pytest.raises(LockHeldError):
        await launcher.start(spec_of(tmp_path, "pass", lock))
    await first.terminate(5)
    second = await launcher.start(spec_of(tmp_path, "pass", lock))
    assert await second.wait() == 0


async def test_the_pipe_ends_when_the_parent_is_killed(tmp_path: Path) -> None:
    """The parent is a process of its own, which is killed; the child notes the end it sees."""
    seen = tmp_path / "seen"
    child = f"import os, sys; os.read(int(sys.argv[1]), 1); open({str(seen)!r}, 'w').close()"
    parent = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from server.launchers import LocalLauncher, ProcessSpec\n"
        "async def main():\n"
        f"    command = lambda fd: [sys.executable, '-c', {child!r}, str(fd)]\n"
        f"    await LocalLauncher().start(ProcessSpec(command, Path({str(tmp_path / 'log')!r})))\n"
        "    print('started', flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", parent, stdout=asyncio.subprocess.PIPE, env=env
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"started\n"
    assert not seen.exists()
    process.kill()
    await process.communicate()
    wait_until(seen.exists)
