"""Tuneyard as an operator starts it: `tuneyard serve` on an empty data directory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

API_KEY = "sk-story-0123456789abcdef0123456789abcdef"
START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class Server:
    base_url: str
    api_key: str


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until_chatable(
    server: Server, model: str, process: subprocess.Popen[bytes], log: Path
) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello."}],
        "max_tokens": 1,
    }
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            answer = httpx.post(
                f"{server.base_url}/chat/completions",
                json=body,
                headers={"Authorization": f"Bearer {server.api_key}"},
                timeout=10,
            )
            if answer.status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail(f"not ready within {START_TIMEOUT_S} s: {log.read_text()}")


@contextmanager
def serving(
    folder: Path, config: Path | None = None, models: Sequence[str] = ("tuneyard-mini",)
) -> Iterator[Server]:
    """`tuneyard serve` until Ctrl-C, after which none of its processes may be left."""
    port, log = _free_port(), folder / "serve.log"
    running = Server(f"http://127.0.0.1:{port}/v1", API_KEY)
    environ = {
        **os.environ,
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DATA": str(folder / "data"),
        "API_KEY": API_KEY,
    }
    arguments = [] if config is None else ["--config", str(config)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.cli", "serve", *arguments],
            env=environ,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        for model in models:
            wait_until_chatable(running, model, process, log)
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"still running {STOP_TIMEOUT_S} s after Ctrl-C: {log.read_text()}")
        assert _using(folder) == []


def _using(folder: Path) -> list[str]:
    """Command lines of living processes that name the folder or work for one that did."""
    found: list[str] = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in file.read_bytes():
                found.append((file.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return [line for line in found if line.strip()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("story")) as running:
        yield running
