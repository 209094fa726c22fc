"""What the gateway is measured beside, and the gateway: each as a process of its own, started and
ready."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from server.config import Config, EngineKind, Limits, ModelEntry
from server.store import open_store
from server.store.records import Engine, EngineState
from tests.bench.environments import ROUTER, SGLANG_ROUTER
from tests.bench.gateway_fake_engine import NUM_TOKENS
from tests.bench.gateway_relay import KEY

LONG, SHORT, STEADY = "long answer", "short answer", "steady answer"
REPLIES = [
    {"contains": LONG, "tokens": [" word"], "repeat": NUM_TOKENS, "delay_ms": 10},
    {"contains": STEADY, "tokens": [" word"], "repeat": 32, "delay_ms": 100},
    {"contains": SHORT, "tokens": [" word"]},
]


@dataclass
class Streamed:
    """One load of streams."""

    records: int
    us_per_record: float
    records_per_s: float


@dataclass
class Contender:
    name: str
    version: str
    """As results quote it."""
    port: int
    process: subprocess.Popen[bytes]
    short_times: int = 100
    streamed: dict[int, list[Streamed]] = field(default_factory=dict)
    """By the number of streams at once."""
    us_per_request: list[float] = field(default_factory=list)

    def cpu_s(self) -> float:
        """Of all its threads, those that have ended too, in nanoseconds: the times that `/proc`
        tells are counted in ticks of 10 ms. The clock's number is Linux's for a process."""
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def us_per_record(self, streams: int) -> float:
        return statistics.median(one.us_per_record for one in self.streamed[streams])

    def us_per_short_request(self) -> float:
        return statistics.median(self.us_per_request)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], deadline_s: float = 30.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


def answers(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).status_code < 500
    except httpx.HTTPError:
        return False


def start_tuneyard(folder: Path, started: list[subprocess.Popen[bytes]]) -> Contender:
    """The gateway process as `tuneyard serve` starts it, on a scripted engine worker."""
    listen = folder / "engine.sock"
    spec = folder / "engine.json"
    spec.write_text(
        json.dumps(
            {
                "model_id": "m",
                "backend": "scripted",
                "listen": f"unix:{listen}",
                "max_num_seqs": 2048,
                "settings": {"replies": REPLIES},
            }
        )
    )
    worker = subprocess.Popen([sys.executable, "-m", "workers.engine", "--spec", str(spec)])
    started.append(worker)
    wait_until(listen.exists)
    entry = ModelEntry(id="m", path="/nowhere", engine=EngineKind.SCRIPTED, template="qwen3")
    config = Config(data=folder, models=(entry,), limits=Limits(max_requests_per_project=4096))
    asyncio.run(register(config, f"unix:{listen}", worker.pid))
    (folder / "config.json").write_text(config.model_dump_json())
    port = free_port()
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(2048)
    read_end, _write_end = os.pipe()
    command = [sys.executable, "-m", "server.cli", "gateway"]
    command += ["--config", str(folder / "config.json")]
    command += ["--parent-fd", str(read_end), "--listen-fd", str(listening.fileno())]
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            command, pass_fds=[read_end, listening.fileno()], stdout=log, stderr=log
        )
    started.append(process)
    wait_until(lambda: answers(port, "/readyz"))
    return Contender("tuneyard", "", port, process)


async def register(config: Config, address: str, pid: int) -> None:
    store = await open_store(config.database_url)
    project = await store.keys.ensure_project("proj_bench", "bench")
    await store.keys.add(project.id, KEY, "bench")
    await store.models.put_base("m", "/nowhere", "tuneyard", 1)
    engine = Engine("e", "m", address, None, EngineState.READY, "s", pid, time.time() + 3600)
    await store.engines.put(engine)
    await store.close()


def start_relay(engine_port: int, started: list[subprocess.Popen[bytes]]) -> Contender:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "tests.bench.gateway_relay:create_relay",
    ]
    command += ["--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(
        command, env={**os.environ, "ENGINE_URL": f"http://127.0.0.1:{engine_port}"}
    )
    started.append(process)
    wait_until(lambda: answers(port, "/docs"))
    return Contender("relay", "FastAPI + httpx relay", port, process, short_times=10)


def start_vllm_router(engine_port: int, started: list[subprocess.Popen[bytes]]) -> Contender:
    return start_router(ROUTER.version, [ROUTER.program("vllm-router")], engine_port, started)


def start_sglang_router(engine_port: int, started: list[subprocess.Popen[bytes]]) -> Contender:
    command = [SGLANG_ROUTER.program("python"), "-m", "sglang_router.launch_router"]
    command += ["--api-key", KEY]
    return start_router(SGLANG_ROUTER.version, command, engine_port, started)


def start_router(
    version: str, command: list[str], engine_port: int, started: list[subprocess.Popen[bytes]]
) -> Contender:
    port = free_port()
    command += ["--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
    command += ["--worker-urls", f"http://127.0.0.1:{engine_port}"]
    command += ["--log-level", "error", "--prometheus-port", str(free_port())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started.append(process)
    wait_until(lambda: answers(port, "/health") and chats(port))
    return Contender(version.partition(" ")[0], version, port, process)


def chats(port: int) -> bool:
    """Whether it has found its engine."""
    body = {"model": "m", "messages": [{"role": "user", "content": SHORT}]}
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    return httpx.post(url, json=body, headers=headers, trust_env=False).status_code == 200
