"""A worker in front of a real vLLM server that somebody else runs: a subset of the suite."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.conformance.engines import KINDS
from tests.engine import models
from tests.engine.conftest import WorkerClient, WorkerProcess
from workers.contract.messages import (
    Abort,
    AdapterRef,
    Capability,
    FailureKind,
    FinishReason,
    Grammar,
    GrammarKind,
    LoadAdapter,
)

pytestmark = pytest.mark.engine_env
KEY = "sekret"
START_TIMEOUT_S = 240.0
GREEDY = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    model: Path
    adapter: AdapterRef


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    python = KINDS["vllm"].python
    if python is None:
        pytest.skip("no environment for vllm: `tuneyard env create vllm`")
    folder = tmp_path_factory.mktemp("attached")
    model = models.make_model(folder / "model")
    adapter = models.make_adapter(model, folder / "style", 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = f"-m vllm.entrypoints.openai.api_server --model {model} --served-model-name remote"
    command += (
        f" --dtype float32 --max-model-len 512 --host 127.0.0.1 --port {port} --block-size 32"
    )
    command += f" --api-key {KEY} --enable-lora --max-loras 2 --max-lora-rank 16 --max-num-seqs 8"
    environment = {
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    }
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(python), *command.split()],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_ready(url, process, log)
        yield Server(url, model, adapter)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health").status_code == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(log.read_text(errors="replace")[-4000:])
        time.sleep(0.3)


def attach(server: Server, folder: Path, **settings: object) -> WorkerProcess:
    return WorkerProcess(
        folder,
        backend="attached",
        model_path=str(server.model),
        max_loras=2,
        settings={"url": server.url, "api_key": KEY, "allow_adapters": True, **settings},
    )


@pytest.fixture(scope="module")
def worker(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    process = attach(server, tmp_path_factory.mktemp("worker"))
    yield process
    process.end()


@pytest.fixture
async def client(worker: WorkerProcess) -> AsyncIterator[WorkerClient]:
    client = await worker.client()
    yield client
    await client.close()


async def test_base_and_adapter_give_transformers_greedy_tokens_side_by_side(
    client: WorkerClient, server: Server
) -> None:
    assert client.hello.engine.startswith("attached-vllm/")
    assert client.hello.max_model_len == 512
    assert (await client.ask(LoadAdapter, server.adapter)) is not None
    prompts = ["The quick brown fox", "0123456789 + -"]
    running = [
        (prompt, adapter, client.start(prompt, adapter=adapter, **GREEDY))
        for prompt in prompts
        for adapter in (None, server.adapter)
    ]
    base, tuned = models.load(server.model), models.merged(server.model, server.adapter)
    for prompt, adapter, request in running:
        answer = await client.finish(request)
        assert answer.end.reason is FinishReason.LENGTH, answer.end
        assert answer.ids == models.greedy(tuned if adapter else base, prompt, 12)


async def test_logprobs_stop_ids_seeds_and_grammars(client: WorkerClient, server: Server) -> None:
    plain = await client.generate("The quick", logprobs=2, **GREEDY)
    assert [entry.token_id for entry in plain.logprobs] == plain.ids
    assert all(len(e.top) == 2 and e.top[0].token_id == e.token_id for e in plain.logprobs)
    stop = plain.ids[3]
    stopped = await client.generate("The quick", stop_token_ids=[stop], **GREEDY)
    assert stopped.ids == plain.ids[: plain.ids.index(stop)]
    assert (stopped.end.reason, stopped.end.stop) == (FinishReason.STOP, stop)
    seeded = [await client.generate("a", seed=5, max_tokens=8, ignore_eos=True) for _ in "ab"]
    assert seeded[0].ids == seeded[1].ids
    choice = Grammar(GrammarKind.CHOICE, '["red", "blue"]')
    assert (await client.generate("a", grammar=choice, max_tokens=8)).text in ("red", "blue")
    bad = await client.generate("a", grammar=Grammar(GrammarKind.REGEX, "(("), max_tokens=8)
    assert bad.end.kind is FailureKind.INVALID_GRAMMAR


async def test_what_the_server_cannot_do_is_refused_and_an_abort_ends_its_work(
    client: WorkerClient, server: Server
) -> None:
    assert Capability.PROMPT_LOGPROBS not in client.hello.capabilities
    missing = AdapterRef("missing", 9, "/nowhere/at/all")
    refused = await client.generate("a", adapter=missing, max_tokens=2)
    assert refused.end.kind in (FailureKind.ADAPTER_NOT_FOUND, FailureKind.ADAPTER_INVALID)
    # Several, so that none is through before its abort arrives.
    requests = [client.start("a", max_tokens=400, ignore_eos=True) for _ in range(8)]
    while any(client.queues[request].qsize() < 2 for request in requests):
        await asyncio.sleep(0)
    for request in requests:
        client.send(Abort(request))
    for request in requests:
        assert (await client.finish(request)).end.reason is FinishReason.ABORT
    headers = {"authorization": f"Bearer {KEY}"}
    async with asyncio.timeout(10), httpx.AsyncClient(headers=headers) as http:
        while "num_requests_running" in (text := (await http.get(f"{server.url}/metrics")).text):
            counts = [ln for ln in text.splitlines() if ln.startswith("vllm:num_requests_running")]
            if all(float(line.rpartition(" ")[2]) == 0 for line in counts):
                break
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"served_model": "other"}, "served_model must be one of remote"),
        ({"api_key": "wrong"}, "answers /v1/models with 401"),
        ({"url": "http://127.0.0.1:9"}, "cannot be reached"),
        ({"typo": 1}, "typo"),
    ],
)
async def test_a_wrong_attachment_is_refused_at_start(
    server: Server, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    worker = attach(server, tmp_path, **settings)
    assert await worker.exit_status(90) == 2
    assert message in worker.log_path.read_text()


async def test_adapters_are_not_declared_unless_allowed(server: Server, tmp_path: Path) -> None:
    worker = attach(server, tmp_path, allow_adapters=False)
    client = await worker.client()
    assert Capability.LORA not in client.hello.capabilities
    refused = await client.generate("a", adapter=server.adapter)
    assert refused.end.kind is FailureKind.UNSUPPORTED
    await client.close()
    worker.end()
