"""A worker in front of real servers that somebody else runs: a subset of the suite for each."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.engines import KINDS
from tests.conformance.servers import KEY, Server, ServerProcess
from tests.engine import models
from tests.engine.conftest import GUARD_S, WorkerClient, WorkerProcess
from workers.contract.hello import Capability
from workers.contract.messages import (
    Abort,
    Done,
    FailureKind,
    FinishReason,
    LoadAdapter,
    PromptScored,
    UnloadAdapter,
)
from workers.contract.parts import AdapterRef, Grammar, GrammarKind

pytestmark = pytest.mark.engine_env
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}
FLAVOURS = ("vllm", "sglang")
RESERVED_TOKENS = {"vllm": 0, "sglang": 8}


@dataclass(frozen=True, slots=True)
class Attached:
    server: Server
    model: Path
    adapter: AdapterRef
    worker: WorkerProcess


def attach(server: Server, model: Path, folder: Path, **changes: Any) -> WorkerProcess:
    settings = {"url": server.url, "api_key": KEY, "allow_adapters": True}
    return WorkerProcess(
        folder,
        backend="attached",
        model_path=str(model),
        max_loras=2,
        max_lora_rank=16,
        settings={**settings, **changes},
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make_model(tmp_path_factory.mktemp("attached-model"))


@pytest.fixture(scope="module")
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model: Path
) -> Iterator[dict[str, ServerProcess]]:
    """Both of them, as far as they are asked for: they start side by side."""
    callspecs = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = {spec.params.get("attached") for spec in callspecs if spec is not None}
    started: dict[str, ServerProcess] = {}
    try:
        for flavour in FLAVOURS:
            python = KINDS[flavour].python
            if python is not None and flavour in wanted:
                folder = tmp_path_factory.mktemp(f"attached-{flavour}")
                started[flavour] = ServerProcess(flavour, python, model, folder)
        yield started
    finally:
        for server in started.values():
            server.end()


@pytest.fixture(scope="module", params=FLAVOURS)
def attached(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    servers: dict[str, ServerProcess],
    model: Path,
) -> Iterator[Attached]:
    flavour: str = request.param
    if flavour not in servers:
        pytest.skip(f"no environment for {flavour}: `tuneyard env create {flavour}`")
    folder = tmp_path_factory.mktemp(f"worker-{flavour}")
    adapter = models.make_adapter(model, folder / "style", 1)
    server = servers[flavour].wait_ready()
    worker = attach(server, model, folder / "worker")
    yield Attached(server, model, adapter, worker)
    worker.end()
    servers[flavour].end()


@pytest.fixture
async def client(attached: Attached) -> AsyncIterator[WorkerClient]:
    client = await attached.worker.client()
    yield client
    await client.close()


async def test_base_and_adapter_give_transformers_greedy_tokens_side_by_side(
    client: WorkerClient, attached: Attached
) -> None:
    flavour = attached.server.flavour
    assert client.hello.engine.startswith(f"attached-{flavour}/")
    assert client.hello.max_model_len == 512 - RESERVED_TOKENS[flavour]
    assert isinstance(await client.ask(LoadAdapter, attached.adapter), Done)
    prompts = ["The quick brown fox", "0123456789 + -"]
    running = [
        (prompt, adapter, client.start(prompt, adapter=adapter, **GREEDY))
        for prompt in prompts
        for adapter in (None, attached.adapter)
    ]
    base, tuned = models.load(attached.model), models.merged(attached.model, attached.adapter)
    for prompt, adapter, request in running:
        answer = await client.finish(request)
        assert answer.end.reason is FinishReason.LENGTH, answer.end
        assert answer.ids == models.greedy(tuned if adapter else base, prompt, 12)


async def test_logprobs_stop_ids_and_cached_tokens(client: WorkerClient) -> None:
    plain = await client.generate("The quick", logprobs=2, **GREEDY)
    assert [entry.token_id for entry in plain.logprobs] == plain.ids
    assert all(len(e.top) == 2 and e.top[0].token_id == e.token_id for e in plain.logprobs)
    stop = plain.ids[3]
    for ignore_eos in (True, False):
        options = {**GREEDY, "ignore_eos": ignore_eos, "stop_token_ids": [stop]}
        stopped = await client.generate("The quick", **options)
        assert stopped.ids == plain.ids[: plain.ids.index(stop)]
        assert (stopped.end.reason, stopped.end.stop) == (FinishReason.STOP, stop)
    long = "The quick brown fox jumps over the lazy dog. " * 8
    first = await client.generate(long, **GREEDY)
    again = await client.generate(long, **GREEDY)
    assert again.ids == first.ids
    assert again.end.cached_tokens >= 64 > first.end.cached_tokens


async def test_what_is_computed_in_one_scope_is_not_found_in_another(client: WorkerClient) -> None:
    long = "yes no maybe red green blue 0123456789 " * 12
    found = [
        (await client.generate(long, cache_scope=scope, **GREEDY)).end.cached_tokens
        for scope in ("one", "two", "one", "two")
    ]
    assert found[:2] == [0, 0]
    assert all(num_cached >= 64 for num_cached in found[2:])


@pytest.mark.parametrize(
    ("kind", "source", "outputs"),
    [
        (GrammarKind.CHOICE, '["red", "blue"]', ("red", "blue")),
        (GrammarKind.REGEX, "(ab){2}", ("abab",)),
        (GrammarKind.JSON_SCHEMA, '{"const": 7}', ("7",)),
        (
            GrammarKind.STRUCTURAL_TAG,
            '{"type":"structural_tag","format":{"type":"const_string","value":"hi"}}',
            ("hi",),
        ),
    ],
    ids=str,
)
async def test_grammars_hold_and_bad_ones_are_refused_before_admission(
    client: WorkerClient, kind: GrammarKind, source: str, outputs: tuple[str, ...]
) -> None:
    answer = await client.generate("a", grammar=Grammar(kind, source), max_tokens=8)
    assert answer.text in outputs
    assert answer.end.reason is FinishReason.STOP
    bad = await client.generate("a", grammar=Grammar(kind, source[:-2]), max_tokens=8)
    assert bad.end.kind is FailureKind.INVALID_GRAMMAR
    assert len(bad.events) == 1


async def test_what_only_one_of_them_can_do_is_refused_by_the_other(
    client: WorkerClient, attached: Attached
) -> None:
    has_seed = attached.server.flavour == "vllm"
    can = client.hello.capabilities
    assert (Capability.SEED in can) is has_seed
    assert (Capability.REPETITION_PENALTY in can) is has_seed
    assert (Capability.PROMPT_LOGPROBS in can) is not has_seed
    options = {"max_tokens": 8, "ignore_eos": True}
    if has_seed:
        seeded = [await client.generate("a", seed=5, **options) for _ in "ab"]
        assert seeded[0].ids == seeded[1].ids
        refused = await client.generate("a", prompt_logprobs=1, **options)
        assert refused.end.param == "prompt_logprobs"
        return
    refused = await client.generate("a", seed=5, **options)
    assert (refused.end.kind, refused.end.param) == (FailureKind.UNSUPPORTED, "seed")
    refused = await client.generate("a", logprobs=1, temperature=0.5, **options)
    assert (refused.end.kind, refused.end.param) == (FailureKind.UNSUPPORTED, "logprobs")
    scored = await client.generate("abc", temperature=0.0, max_tokens=0, prompt_logprobs=1)
    (scores,) = [event for event in scored.events if isinstance(event, PromptScored)]
    assert len(scores.tokens) == scored.end.prompt_tokens
    assert scored.ids == []


async def test_an_id_outside_the_vocabulary_never_reaches_the_server(client: WorkerClient) -> None:
    refused = await client.generate("a", logit_bias={client.hello.vocab_size: 1.0})
    assert (refused.end.kind, refused.end.param) == (FailureKind.INVALID_REQUEST, "logit_bias")


async def _abort_running(client: WorkerClient) -> bool:
    """False if the streams came to their own end before the word did. Eight run and one waits."""
    requests = [client.start("a", max_tokens=450, ignore_eos=True) for _ in range(9)]
    await asyncio.wait_for(client.queues[requests[0]].get(), GUARD_S)
    for request in requests:
        client.send(Abort(request))
    reasons = {(await client.finish(request)).end.reason for request in requests}
    assert reasons <= {FinishReason.ABORT, FinishReason.LENGTH}
    return reasons == {FinishReason.ABORT}


async def test_aborted_streams_end_at_the_server_too(
    client: WorkerClient, attached: Attached
) -> None:
    """A busy machine can keep this process waiting for longer than the streams last: those attempts
    prove nothing, and another is made."""
    for _ in range(20):
        if await _abort_running(client):
            break
    else:
        pytest.fail("the streams were never all aborted")
    async with asyncio.timeout(GUARD_S):
        while await asyncio.to_thread(attached.server.num_running):
            await asyncio.sleep(0.1)


async def test_adapters_are_checked_here_and_loaded_once(
    client: WorkerClient, attached: Attached, tmp_path: Path
) -> None:
    missing = AdapterRef("missing", 9, "/nowhere/at/all")
    refused = await client.generate("a", adapter=missing, max_tokens=2)
    assert refused.end.kind is FailureKind.ADAPTER_NOT_FOUND
    big = models.make_adapter(attached.model, tmp_path / "big", 10, r=32)
    refused = await client.generate("a", adapter=big, max_tokens=2)
    assert refused.end.kind is FailureKind.ADAPTER_INVALID
    assert "32" in refused.end.message
    cut = tmp_path / "cut"
    shutil.copytree(attached.adapter.path, cut)
    weights = cut / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused = await client.generate("a", adapter=AdapterRef("cut", 11, str(cut)), max_tokens=2)
    assert refused.end.kind is FailureKind.ADAPTER_INVALID
    # Three adapters over two places, and back to the first: unloaded, and loaded anew.
    others = [models.make_adapter(attached.model, tmp_path / f"n{n}", 20 + n) for n in range(2)]
    before = await client.generate("The quick", adapter=attached.adapter, **GREEDY)
    for other in others:
        assert (await client.generate("a", adapter=other, **GREEDY)).ids
    after = await client.generate("The quick", adapter=attached.adapter, **GREEDY)
    assert after.ids == before.ids
    assert (await client.next_stats()).adapter_evictions >= 2
    assert isinstance(await client.ask(UnloadAdapter, others[0].name), Done)


async def test_a_second_worker_finds_what_the_first_has_loaded(
    client: WorkerClient, attached: Attached, tmp_path: Path
) -> None:
    expected = await client.generate("The quick", adapter=attached.adapter, **GREEDY)
    worker = attach(attached.server, attached.model, tmp_path, flavour=attached.server.flavour)
    other = await worker.client()
    answer = await other.generate("The quick", adapter=attached.adapter, **GREEDY)
    assert answer.ids == expected.ids
    await other.close()
    worker.end()


async def test_a_wrong_attachment_is_refused_at_start(attached: Attached, tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "served_model must be one of remote": {"served_model": "other"},
        "answers /v1/models with 401": {"api_key": "wrong"},
    }
    if attached.server.flavour == "vllm":  # what follows never gets as far as the server
        cases |= {
            "cannot be reached": {"url": "http://127.0.0.1:9"},
            "Invalid enum value": {"flavour": "ollama"},
        }
    workers = [
        (message, attach(attached.server, attached.model, tmp_path / str(n), **settings))
        for n, (message, settings) in enumerate(cases.items())
    ]
    for message, worker in workers:
        assert await worker.exit_status() == 2
        assert message in worker.log_path.read_text()
        worker.end()


async def test_adapters_are_not_declared_unless_allowed(attached: Attached, tmp_path: Path) -> None:
    worker = attach(attached.server, attached.model, tmp_path, allow_adapters=False)
    client = await worker.client()
    assert Capability.LORA not in client.hello.capabilities
    refused = await client.generate("a", adapter=attached.adapter)
    assert refused.end.kind is FailureKind.UNSUPPORTED
    await client.close()
    worker.end()
