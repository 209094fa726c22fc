"""Input that is meant to do harm, against a gateway in a process of its own.

`Target.watch` is what a test wraps around it: meanwhile a bystander asks for short answers on fresh
connections and must get them, and the gateway's memory must not grow past a bound. A stall is told
by the processor time that the gateway spent before it answered the bystander, which does not depend
on what else the machine is doing.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.config import Config, Limits
from tests.gateway.conftest import (
    DEADLINE_S,
    MODEL,
    REPLIES,
    Worker,
    make_config,
    register,
    start_worker,
    user,
    wait_for,
)
from tests.gateway.raw import request_bytes

MB = 1024 * 1024
SHORT = request_bytes(
    "/v1/chat/completions", {"model": MODEL, "messages": user("say hello")}, "Connection: close"
)
"""What the bystander asks; the scripted engine answers at once."""
_SAMPLES_S = 0.02
_MAX_GROWTH_BYTES = 64 * MB
_MAX_STALL_CPU_S = 1.5


@dataclass
class Watch:
    """What was seen while the hostile input was being handled."""

    grown_bytes: int = 0
    """The most that the gateway's memory was above what it was before."""
    worst_stall_s: float = 0.0
    """The most processor time that the gateway spent before it had answered the bystander."""
    num_answers: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass
class Target:
    """A gateway to be attacked."""

    port: int
    process: psutil.Popen
    log: Path
    """Its standard error."""

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def exchange(self, data: bytes) -> bytes:
        """Sends it on a connection of its own and reads until the gateway closes that."""
        with self.connect() as opened:
            opened.sendall(data)
            return read_to_end(opened)

    def get(self, path: str) -> bytes:
        return self.exchange(
            f"GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode()
        )

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = self.get("/metrics").decode().splitlines()
        values = [line.rpartition(" ")[2] for line in lines if line.startswith(name)]
        return sum(float(value) for value in values)

    def memory_bytes(self) -> int:
        return int(self.process.memory_info().rss)

    def cpu_s(self) -> float:
        """Of all its threads. The clock's number is Linux's for a process."""
        return time.clock_gettime(~self.process.pid << 3 | 2)

    @contextmanager
    def watch(
        self,
        max_growth_bytes: int = _MAX_GROWTH_BYTES,
        max_stall_cpu_s: float = _MAX_STALL_CPU_S,
    ) -> Generator[Watch]:
        """Fails unless the bystander was answered, before and after the input's end, and the
        bounds held."""
        seen = Watch()
        over = threading.Event()
        threads = [
            threading.Thread(target=task, args=(seen, over), daemon=True)
            for task in (self._sample_memory, self._stand_by)
        ]
        for thread in threads:
            thread.start()
        try:
            yield seen
            answered = seen.num_answers
            wait_for(lambda: seen.num_answers > answered or seen.faults)
        finally:
            over.set()
            for thread in threads:
                thread.join(DEADLINE_S)
        assert not seen.faults, seen.faults[0]
        assert seen.grown_bytes <= max_growth_bytes, f"{seen.grown_bytes / MB:.0f} MB more"
        assert seen.worst_stall_s <= max_stall_cpu_s, f"held up for {seen.worst_stall_s:.2f} s"

    def _sample_memory(self, seen: Watch, over: threading.Event) -> None:
        before = self.memory_bytes()
        while not over.wait(_SAMPLES_S):
            seen.grown_bytes = max(seen.grown_bytes, self.memory_bytes() - before)

    def _stand_by(self, seen: Watch, over: threading.Event) -> None:
        while not over.wait(_SAMPLES_S):
            before = self.cpu_s()
            try:
                answer = self.exchange(SHORT)
            except OSError as error:
                seen.faults.append(f"the bystander got {error!r}")
                return
            if not answer.startswith(b"HTTP/1.1 200 "):
                seen.faults.append(f"the bystander got {answer[:300]!r}")
                return
            seen.worst_stall_s = max(seen.worst_stall_s, self.cpu_s() - before)
            seen.num_answers += 1


def read_to_end(opened: socket.socket) -> bytes:
    """What came, also where the gateway closed the connection on what we still sent."""
    data = b""
    while True:
        try:
            piece = opened.recv(65536)
        except ConnectionError:
            return data
        if not piece:
            return data
        data += piece


def send_all(opened: socket.socket, pieces: int, piece: bytes) -> bool:
    """Whether the gateway took everything."""
    try:
        for _ in range(pieces):
            opened.sendall(piece)
    except ConnectionError:
        return False
    return True


def start_target(folder: Path, config: Config, worker: Worker, max_files: int | None) -> Target:
    """The gateway process as `tuneyard serve` starts it."""
    asyncio.run(register(config, [worker], [MODEL]))
    settings = folder / "config.json"
    settings.write_text(config.model_dump_json())
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(2048)
        port: int = listening.getsockname()[1]
        read_end, _ = os.pipe()
        command = [sys.executable, "-m", "server.cli", "gateway", "--config", str(settings)]
        command += ["--parent-fd", str(read_end), "--listen-fd", str(listening.fileno())]
        log = folder / "gateway.log"
        with log.open("wb") as output:
            process = psutil.Popen(
                command,
                pass_fds=[read_end, listening.fileno()],
                stdout=output,
                stderr=output,
                preexec_fn=None if max_files is None else _limit_files(max_files),
            )
        os.close(read_end)
    target = Target(port, process, log)
    wait_for(lambda: target.exchange(SHORT).startswith(b"HTTP/1.1 200 ") or process.poll())
    assert process.poll() is None, log.read_text()
    return target


def _limit_files(count: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


StartTarget = Callable[..., Target]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartTarget]:
    """Starts gateways: `start(replies, max_files=..., **limits)`."""
    with ExitStack() as stack:

        def starting(
            replies: list[dict[str, Any]] = REPLIES, max_files: int | None = None, **limits: Any
        ) -> Target:
            folder = tmp_path_factory.mktemp("hostile")
            worker = start_worker(folder, "engine", replies)
            stack.callback(worker.stop)
            config = make_config(folder, limits=Limits(**limits))
            target = start_target(folder, config, worker, max_files)
            stack.callback(target.process.wait, DEADLINE_S)
            stack.callback(target.process.terminate)
            return target

        yield starting


@pytest.fixture(scope="session")
def target(start: StartTarget) -> Target:
    """With the limits that hold unless an operator sets others."""
    return start()
