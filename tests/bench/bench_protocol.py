"""Tokens per frontend-CPU-second: our vLLM worker over its socket against vLLM's own OpenAI server.

The frontend is the process clients talk to; the engine's own processes do the same work for both.
Rounds alternate between the two, on the same model, with the same prompts as token ids; CPU time is
the kernel's own count for the process, in nanoseconds. Needs the vLLM environment.

    python -m tests.bench protocol [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from tests.bench.findings import Finding, record
from tests.bench.serving_servers import VLLM_VERSION
from tests.conformance.engines import KINDS, MAX_MODEL_LEN, EngineProcess
from tests.conformance.model_files import MODEL_PATH
from tests.engine.conftest import WorkerClient
from workers.contract.parts import Tokens

CONCURRENCY = 32
NUM_TOKENS = 256
_PROMPT = list(range(20, 60))
_CPUCLOCK_SCHED = 2


def _cpu_s(pid: int) -> float:
    """Of the whole process, ended threads included: its CPU clock, as clock_getcpuclockid(3)
    derives it. The ticks of /proc are too coarse for rounds of a few tenths of a second."""
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


async def _worker_round(client: WorkerClient) -> int:
    options: dict[str, Any] = {"max_tokens": NUM_TOKENS, "ignore_eos": True}
    answers = await asyncio.gather(
        *(client.generate([Tokens(_PROMPT)], **options) for _ in range(CONCURRENCY))
    )
    return sum(answer.end.completion_tokens for answer in answers)


async def _server_round(client: httpx.AsyncClient, model: str) -> int:
    body = {
        "model": model,
        "prompt": _PROMPT,
        "max_tokens": NUM_TOKENS,
        "ignore_eos": True,
        "stream": True,
    }

    async def one() -> int:
        num_chunks = 0
        async with client.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                num_chunks += line.startswith("data: {")
        return num_chunks

    counts = await asyncio.gather(*(one() for _ in range(CONCURRENCY)))
    assert all(counts), "a stream gave nothing"
    return CONCURRENCY * NUM_TOKENS


def _start_server(model: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    python = KINDS["vllm"].python
    assert python is not None
    flags = {
        "--model": model,
        "--dtype": "float32",
        "--max-model-len": MAX_MODEL_LEN,
        "--max-num-seqs": CONCURRENCY,
        "--block-size": 32,
        "--port": port,
        "--host": "127.0.0.1",
    }
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += [str(part) for pair in flags.items() for part in pair]
    environment = {
        "TORCHDYNAMO_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "1",
    }
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


async def _wait_server(client: httpx.AsyncClient) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            if (await client.get("/health")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.5)
    raise TimeoutError("vLLM's server did not start")


async def measure(folder: Path, num_rounds: int) -> dict[str, list[float]]:
    """Tokens per frontend-CPU-second of each round."""
    worker = EngineProcess(KINDS["vllm"], folder / "worker", max_num_seqs=CONCURRENCY)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = _start_server(MODEL_PATH, port, folder / "server.log")
    rates: dict[str, list[float]] = {"tuneyard": [], "vllm": []}
    try:
        await asyncio.to_thread(worker.wait_ready)
        client = await worker.connect()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=240) as http:
            await _wait_server(http)
            for round_number in range(num_rounds + 1):
                for name, pid, run in (
                    ("tuneyard", worker.process.pid, lambda: _worker_round(client)),
                    ("vllm", server.pid, lambda: _server_round(http, str(MODEL_PATH))),
                ):
                    before = _cpu_s(pid)
                    num_tokens = await run()
                    if round_number:  # the first one warms up
                        rates[name].append(num_tokens / (_cpu_s(pid) - before))
                        sys.stderr.write(f"  {name}: {rates[name][-1]:.0f}\n")
        await client.close()
    finally:
        worker.end()
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8)
    num_rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        rates = asyncio.run(measure(Path(folder), num_rounds))
    pairs = list(zip(rates["tuneyard"], rates["vllm"], strict=True))
    record(
        Finding(
            what=f"vLLM worker, tokens per frontend-CPU-second at {CONCURRENCY}",
            ours=statistics.median(rates["tuneyard"]),
            peer=f"vLLM's OpenAI server, {VLLM_VERSION}",
            theirs=statistics.median(rates["vllm"]),
            ratio=statistics.median(ours / theirs for ours, theirs in pairs),
            target="at least 1.5",
        )
    )
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    sys.stdout.write(f"ratios of the rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)}\n")


if __name__ == "__main__":
    main()
