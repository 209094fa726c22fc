"""Tuneyard as an operator starts it: `tuneyard serve` on an empty data directory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

API_KEY = "sk-story-0123456789abcdef0123456789abcdef"
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Server:
    base_url: str
    api_key: str


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait_until_chatable(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    body = {
        "model": "tuneyard-mini",
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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("story")
    port, log = _free_port(), folder / "serve.log"
    running = Server(f"http://127.0.0.1:{port}/v1", API_KEY)
    environ = {
        **os.environ,
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DATA": str(folder / "data"),
        "API_KEY": API_KEY,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.cli", "serve"],
            env=environ,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait_until_chatable(running, process, log)
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"still running {STOP_TIMEOUT_S} s after Ctrl-C: {log.read_text()}")
