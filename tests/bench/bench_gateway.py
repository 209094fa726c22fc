"""CPU of the gateway process per streamed record and per short request, beside a plain relay and a
Rust router, in one interleaved run.

Every record that reached the caller is charged the same, whether or not the contender kept up: one
that falls behind finds several records in each read, which flatters it. So besides the full load
there is one that all can carry, and the table says what rate was reached.

    python -m tests.bench gateway      (ROUNDS in the environment; 3 unless told)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console

from server.config import Config, EngineKind, Limits, ModelEntry
from server.store import open_store
from server.store.records import Engine, EngineState
from tests.bench.environments import ROUTER
from tests.bench.findings import Finding, record
from tests.bench.gateway_fake_engine import NUM_TOKENS
from tests.bench.gateway_load import load
from tests.bench.gateway_relay import KEY

ROUNDS = int(os.environ.get("ROUNDS", "3"))
STREAMS = 256
FEW_STREAMS = 4
"""So few that the relay keeps up."""
TOKENS_PER_S = 100
SHORT_CALLERS = 32
MANY_STREAMS = 1000
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
    port: int
    process: subprocess.Popen[bytes]
    short_times: int
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
    return Contender("tuneyard", port, process, short_times=100)


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
    return Contender("relay", port, process, short_times=10)


def start_router(engine_port: int, started: list[subprocess.Popen[bytes]]) -> Contender:
    port = free_port()
    command = [
        ROUTER.program("vllm-router"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--policy",
        "round_robin",
    ]
    command += ["--worker-urls", f"http://127.0.0.1:{engine_port}"]
    command += ["--log-level", "error", "--prometheus-port", str(free_port())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started.append(process)
    wait_until(lambda: answers(port, "/health"))
    return Contender("router", port, process, short_times=100)


def measure(contender: Contender) -> None:
    for streams, times in ((STREAMS, 1), (FEW_STREAMS, 2)):
        before = contender.cpu_s()
        outcome = asyncio.run(load(contender.port, streams, times, LONG, stream=True))
        check(contender, outcome.errors, outcome.chunks, streams * times * NUM_TOKENS)
        contender.streamed.setdefault(streams, []).append(
            Streamed(
                outcome.chunks,
                (contender.cpu_s() - before) / outcome.chunks * 1e6,
                outcome.chunks / outcome.wall_s,
            )
        )
    before = contender.cpu_s()
    outcome = asyncio.run(
        load(contender.port, SHORT_CALLERS, contender.short_times, SHORT, stream=False)
    )
    check(contender, outcome.errors, outcome.requests, SHORT_CALLERS * contender.short_times)
    contender.us_per_request.append((contender.cpu_s() - before) / outcome.requests * 1e6)


def check(contender: Contender, errors: int, got: int, expected: int) -> None:
    if errors or got != expected:
        raise SystemExit(f"{contender.name}: {errors} errors, {got} of {expected}")


def run(console: Console) -> None:
    started: list[subprocess.Popen[bytes]] = []
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    try:
        engine_port = free_port()
        command = [sys.executable, "-m", "tests.bench.gateway_fake_engine", str(engine_port)]
        started.append(subprocess.Popen(command))
        wait_until(lambda: answers(engine_port, "/health"))
        tuneyard = start_tuneyard(Path(tempfile.mkdtemp(prefix="bench-gateway-")), started)
        contenders = [tuneyard, start_router(engine_port, started)]
        contenders.append(start_relay(engine_port, started))
        for _ in range(ROUNDS):
            for contender in contenders:
                measure(contender)
        report(contenders, console)
        outcome = asyncio.run(load(tuneyard.port, MANY_STREAMS, 1, STEADY, stream=True))
        check(tuneyard, outcome.errors, outcome.chunks, MANY_STREAMS * 32)
        console.print(f"{MANY_STREAMS} concurrent streams: no error, {outcome.wall_s:.1f} s")
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(10)


def report(contenders: list[Contender], console: Console) -> None:
    ours = contenders[0]
    for streams in (STREAMS, FEW_STREAMS):
        target = streams * TOKENS_PER_S
        console.print(f"{streams} streams, {target} records/s offered")
        for contender in contenders:
            rate = statistics.median(one.records_per_s for one in contender.streamed[streams])
            records = sum(one.records for one in contender.streamed[streams])
            kept_up = "kept up" if rate >= 0.9 * target else "fell behind"
            console.print(
                f"  {contender.name:10}{contender.us_per_record(streams):8.1f} us per record, "
                f"{records} delivered at {rate:.0f}/s ({kept_up})"
            )
    console.print(f"{SHORT_CALLERS} callers, one-token answers")
    for contender in contenders:
        console.print(
            f"  {contender.name:10}{contender.us_per_short_request():8.1f} us per request"
        )
    for other in contenders[1:]:
        for what, mine, theirs in (
            *(
                (f"record, {n} streams", ours.us_per_record(n), other.us_per_record(n))
                for n in (STREAMS, FEW_STREAMS)
            ),
            (
                f"short request, {SHORT_CALLERS} callers",
                ours.us_per_short_request(),
                other.us_per_short_request(),
            ),
        ):
            record(
                Finding(
                    what=f"gateway CPU, µs per {what}",
                    ours=mine,
                    peer=ROUTER.version if other.name == "router" else "FastAPI + httpx relay",
                    theirs=theirs,
                    ratio=mine / theirs,
                )
            )
        few, many = (other.us_per_record(n) / ours.us_per_record(n) for n in (FEW_STREAMS, STREAMS))
        each = other.us_per_record(FEW_STREAMS) / ours.us_per_record(STREAMS)
        short = other.us_per_short_request() / ours.us_per_short_request()
        console.print(
            f"{other.name} / tuneyard: per record {many:.2f} at {STREAMS} streams, {few:.2f} at "
            f"{FEW_STREAMS}, {each:.2f} with {other.name} at {FEW_STREAMS} and tuneyard at "
            f"{STREAMS}; per short request {short:.2f}"
        )


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    run(Console())


if __name__ == "__main__":
    main()
