"""`tuneyard serve` with a scripted engine, and its processes by what they do."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import openai
import psutil

from tests.gateway.test_serve import Service
from tests.jobs.live import GUARD_S, wait_until
from workers.contract.pid_files import holder

CONFIG = """
data: data
port: 0
models:
  - id: scripted-model
    path: .
    engine: scripted
    template: qwen3
    settings:
      replies:
        - {contains: hi, text: hello}
        - {contains: some time, tokens: ["tick "], repeat: 100, delay_ms: 40}
"""


class Processes:
    def __init__(self, folder: Path, service: Service) -> None:
        self.data = folder / "data"
        self.service = service
        self.root = psutil.Process(service.process.pid)

    def child(self, name: str) -> psutil.Process | None:
        """The gateway or the supervisor; None while there is none."""
        with suppress(psutil.NoSuchProcess):
            for process in self.root.children():
                words = process.cmdline()
                if ("gateway" if name == "gateway" else "server.supervisor") in words:
                    return process
        return None

    @property
    def supervisor(self) -> psutil.Process:
        process = self.child("supervisor")
        assert process is not None
        return process

    @property
    def engines(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for path in sorted(self.data.glob("run/engine-*.pid")):
            with suppress(psutil.NoSuchProcess):
                if (pid := holder(path)) is not None:
                    found.append(psutil.Process(pid))
        return found

    @property
    def engine(self) -> psutil.Process:
        (engine,) = self.engines
        return engine

    def successor(self, of: psutil.Process, name: str = "supervisor") -> psutil.Process:
        found: list[psutil.Process] = []

        def is_there() -> bool:
            process = self.child(name)
            if process is None or process.pid == of.pid:
                return False
            found.append(process)
            return True

        wait_until(is_there)
        return found[-1]

    def wait_taken_over(self, engine: psutil.Process) -> None:
        log = self.data / "logs" / "supervisor.log"
        taken = f'"pid":{engine.pid}'
        wait_until(
            lambda: any(
                taken in line
                for line in log.read_text().splitlines()
                if "engine taken over" in line
            )
        )

    def make_rows_stale(self) -> None:
        """As after a long silence of their supervisor."""
        with sqlite3.connect(self.data / "tuneyard.db", timeout=30) as database:
            database.execute("UPDATE engines SET heartbeat_at = 0")

    def answers(self) -> bool:
        try:
            return self.service.say_hi() == "hello"
        except openai.APIError:
            return False


@contextmanager
def serving(folder: Path, config: str = CONFIG) -> Generator[Processes]:
    service = Service(folder, config)
    try:
        yield Processes(folder, service)
    finally:
        if service.process.poll() is None:
            service.process.send_signal(signal.SIGTERM)
            service.process.wait(GUARD_S)


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def stop(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGSTOP)


def go_on(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGCONT)
