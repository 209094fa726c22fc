"""Workers forked from a process that has torch and transformers imported already.

A process of its own spends seconds of processor time on these imports, and a whole run of the tests
starts dozens. `python -m workers.engine` and `python -m workers.trainer` themselves are what the
conformance suite and services start.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARENT_FD = 900
"""Higher than what a new process has open."""
_IMPORTED = [
    "pytest",
    "tests.forked",
    "workers.engine.__main__",
    "workers.trainer.__main__",
    "workers.engine.hf.backend",
    "workers.engine.hf.pooling_backend",
    "workers.engine.attached.backend",
    "workers.trainer.run",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen3.modeling_qwen3",
    "xgrammar",
]


@cache
def _server() -> ForkServerContext:
    from multiprocessing.forkserver import ensure_running

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    num_threads = os.environ.get("OMP_NUM_THREADS", "1")
    changed = {"OMP_NUM_THREADS": num_threads, "PYTHONPATH": str(ROOT)}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    ensure_running()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    return context


class ForkedWorker:
    """`python -m MODULE ARGUMENTS`, and as much of `subprocess.Popen` as tests use. The parent's
    pipe, if there is one, is `PARENT_FD` there."""

    def __init__(
        self, module: str, arguments: Sequence[str], log: Path, parent_fd: int | None = None
    ) -> None:
        pipe = None if parent_fd is None else DupFd(parent_fd)
        told = (module, arguments, log, pipe, dict(os.environ))
        self._process = _server().Process(target=_work, args=told, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None, "it was started"
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired("a forked worker", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _work(
    module: str, arguments: Sequence[str], log: Path, pipe: Any, environment: dict[str, str]
) -> None:
    """In the child, in the environment that the tests' own process has."""
    os.environ.update({"OMP_NUM_THREADS": "1"} | environment)
    os.chdir(ROOT)
    with log.open("ab") as out:
        os.dup2(out.fileno(), 2)
    if pipe is not None:
        given = pipe.detach()
        os.dup2(given, PARENT_FD)
        os.close(given)
    sys.argv = [module, *arguments]
    sys.exit(import_module(f"{module}.__main__").main())
