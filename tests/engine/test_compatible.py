"""Compatibility mode: what batched engines promise, one sequence at a time."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig

from tests.architectures.subject import PROMPTS as IDS
from tests.architectures.subject import Subject
from workers.contract.hello import Capability
from workers.contract.messages import Admitted, FinishReason, PromptScored
from workers.contract.parts import AdapterRef, Grammar, GrammarKind, Sampling
from workers.engine.backend import Output, Work
from workers.engine.hf.backend import HfBackend, create
from workers.engine.hf.compatible.forward import OwnForward
from workers.engine.hf.compatible.interleaving import can_interleave
from workers.engine.hf.compatible.memory import measure_memory
from workers.engine.hf.compatible.turns import Turns
from workers.engine.hf.model import load_model
from workers.engine.hf.sequence import Sequence
from workers.engine.hf.settings import HfSettings
from workers.engine.spec import BackendName, EngineSpec

from . import models
from .conftest import GUARD_S, WorkerClient, WorkerProcess

PROMPTS = ["The quick brown fox", '{"name": "Ada", "age": 36', "a", "0123456789 + - * /"]
GREEDY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}


class Silent:
    """Nothing is generated."""

    def deliver(self, outputs: Iterable[Output]) -> None:
        raise AssertionError(outputs)

    def adapters_changed(self) -> None:
        pass

    def died(self, reason: str) -> None:
        raise AssertionError(reason)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ALiBi instead of positions: no other attention than the model's own computes it."""
    folder = tmp_path_factory.mktemp("models") / "bloom"
    torch.manual_seed(3)
    eos: Any = models.tokenizer().eos_token_id
    config = BloomConfig(
        vocab_size=448,
        hidden_size=64,
        n_layer=3,
        n_head=4,
        tie_word_embeddings=False,
        initializer_range=0.2,
        eos_token_id=eos,
        bos_token_id=None,
        pad_token_id=None,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    models.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    places = tmp_path_factory.mktemp("adapters")
    return [models.make_adapter(folder, places / f"adapter{uid}", uid) for uid in (1, 2, 3)]


def _spec(folder: Path, **changes: Any) -> dict[str, Any]:
    spec = {"backend": "hf", "model_path": str(folder), "dtype": "float32", "device": "cpu"}
    return spec | {"max_model_len": 4096, "max_num_seqs": 8} | changes


@pytest.fixture(scope="module")
def worker(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    process = WorkerProcess(tmp_path_factory.mktemp("hf"), **_spec(folder, max_loras=2))
    yield process
    process.end()


async def test_it_says_so_in_its_greeting_and_its_log(
    client: WorkerClient, worker: WorkerProcess
) -> None:
    assert client.hello.compatibility == "its attention does not go through transformers' interface"
    (warning,) = client.hello.warnings
    assert warning.startswith("compatibility mode, one sequence at a time:")
    log = [json.loads(line) for line in worker.log_path.read_text().splitlines() if line[:1] == "{"]
    told = [entry for entry in log if entry["event"].startswith("compatibility mode")]
    assert [entry["reason"] for entry in told] == [client.hello.compatibility]


async def test_answers_side_by_side_are_those_of_generate(
    client: WorkerClient, folder: Path
) -> None:
    model = models.load(folder)
    requests = [client.start(prompt, max_tokens=16, **GREEDY) for prompt in PROMPTS * 3]
    for prompt, request in zip(PROMPTS * 3, requests, strict=True):
        answer = await client.finish(request)
        assert answer.ids == models.greedy(model, prompt, 16)
        assert answer.end.reason == FinishReason.LENGTH


async def test_a_seed_gives_the_same_alone_and_in_company(client: WorkerClient) -> None:
    options: dict[str, Any] = {"max_tokens": 20, "seed": 11, "ignore_eos": True, "top_p": 0.95}
    alone = await client.generate(PROMPTS[0], **options)
    company = [client.start(prompt, max_tokens=30) for prompt in PROMPTS]
    among = await client.generate(PROMPTS[0], **options)
    other = await client.generate(PROMPTS[0], **options | {"seed": 12})
    assert among.ids == alone.ids != other.ids
    for request in company:
        await client.finish(request)


async def test_logprobs_are_the_models_own(client: WorkerClient, folder: Path) -> None:
    model = models.load(folder)
    prompt_ids = models.tokenizer().encode(PROMPTS[0])
    answer = await client.generate(
        PROMPTS[0], max_tokens=6, logprobs=5, prompt_logprobs=2, seed=1, ignore_eos=True
    )
    with torch.inference_mode():
        logits = model(torch.tensor([prompt_ids + answer.ids])).logits[0].float()
    expected = torch.log_softmax(logits, -1)
    assert [type(event) for event in answer.events[:2]] == [Admitted, PromptScored]
    scored = [*answer.events[1].tokens, *answer.logprobs]
    assert [entry.token_id for entry in scored] == prompt_ids + answer.ids
    assert math.isnan(scored[0].logprob)
    for row, entry in zip(expected[:-1], scored[1:], strict=True):
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-3)
        best = torch.topk(row, len(entry.top))
        assert [top.token_id for top in entry.top] == best.indices.tolist()


async def test_grammars_stops_and_bias_hold(client: WorkerClient) -> None:
    choice = Grammar(GrammarKind.CHOICE, json.dumps(["yes", "no"]))
    answers = [client.start(PROMPTS[0], max_tokens=9, grammar=choice, seed=n) for n in range(4)]
    assert {(await client.finish(answer)).text for answer in answers} <= {"yes", "no"}
    whole = await client.generate(PROMPTS[0], max_tokens=20, **GREEDY)
    stop = whole.text[3:6]
    cut = await client.generate(PROMPTS[0], max_tokens=20, stop=[stop], **GREEDY)
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert (cut.end.reason, cut.end.stop) == (FinishReason.STOP, stop)
    (fox, *_) = models.tokenizer().encode("fox")
    forced = await client.generate("a", max_tokens=5, logit_bias={fox: 100.0}, **GREEDY)
    assert forced.ids == [fox] * 5


async def test_base_and_adapters_take_turns_on_one_model(
    client: WorkerClient, folder: Path, adapters: list[AdapterRef]
) -> None:
    """Three adapters in two places, all at once."""
    assert Capability.LORA in client.hello.capabilities
    who = [None, *adapters] * 2
    requests = [client.start(PROMPTS[0], adapter=a, max_tokens=10, **GREEDY) for a in who]
    answers = [await client.finish(request) for request in requests]
    expected = [models.load(folder), *(models.merged(folder, adapter) for adapter in adapters)]
    wanted = [models.greedy(model, PROMPTS[0], 10) for model in expected]
    assert len({tuple(ids) for ids in wanted}) == 4
    assert [answer.ids for answer in answers] == wanted * 2


async def test_a_short_answer_does_not_wait_for_a_long_one(client: WorkerClient) -> None:
    long = client.start(PROMPTS[0], max_tokens=600, **GREEDY)
    short = client.start(PROMPTS[1], max_tokens=3, **GREEDY)
    await client.finish(short)
    await client.finish(long)
    assert client.ended.index(short) < client.ended.index(long)


async def test_whoever_came_first_is_served_first(
    folder: Path, start_worker: Any, connect: Any
) -> None:
    client = await connect(start_worker(**_spec(folder, max_loras=0, max_num_seqs=1)))
    requests = [client.start(prompt, max_tokens=5, **GREEDY) for prompt in PROMPTS * 2]
    await asyncio.gather(*(client.finish(request) for request in requests))
    assert client.ended == requests


def test_a_model_that_keeps_its_state_in_itself_is_not_shared(tmp_path: Path) -> None:
    """RecurrentGemma's is in its modules: each sequence runs to its end."""
    subject = Subject("recurrent_gemma", tmp_path)
    assert not can_interleave(subject.load())
    description, answers = subject.answers(subject.adapters)
    assert description.compatibility is not None
    assert answers == subject.expected(subject.adapters)


def test_a_sequence_whose_forward_pass_breaks_off_is_computed_anew(tmp_path: Path) -> None:
    """Some layers' caches have the token then and some have not."""
    subject = Subject("bloom", tmp_path)
    spec = EngineSpec(
        model_id="m",
        backend=BackendName.HF,
        listen="unix:/unused",
        model_path=str(subject.path),
        dtype="float32",
        device="cpu",
        max_loras=0,
    )
    loaded = load_model(spec, HfSettings())
    turns = Turns(loaded, None, measure_memory(loaded.model, 128, HfSettings()), max_sequences=2)
    forward = OwnForward(loaded, None, turns)
    sequences = [
        Sequence(Work(key, prompt, Sampling(), 8, frozenset())) for key, prompt in enumerate(IDS)
    ]
    for sequence in sequences:
        turns.waiting.add(sequence)
    num_calls = 0

    def break_off(*_: object) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls in (2, 7, 8):
            raise MemoryError

    loaded.model.transformer.h[1].register_forward_pre_hook(break_off)
    with torch.inference_mode():
        while turns.active or turns.waiting:
            turns.admit()
            (part,) = [*(step := turns.plan()).decode, *step.chunks]
            try:
                logits = forward.logits(step)
            except MemoryError:
                continue
            part.sequence.row.num_computed = part.end
            part.sequence.append(int(logits[-1].argmax()))
            if part.sequence.num_output == 8:
                turns.finish(part.sequence)
    assert num_calls == 2 * 8 + 3
    answers = [sequence.tokens[sequence.num_prompt :].tolist() for sequence in sequences]
    assert [answers] == subject.expected()


async def test_inputs_of_models_that_see_both_ways_are_pooled_without_padding(
    tmp_path: Path,
) -> None:
    subject = Subject("bert", tmp_path)
    spec = EngineSpec(
        model_id="m",
        backend=BackendName.HF,
        listen="unix:/unused",
        model_path=str(subject.path),
        dtype="float32",
        device="cpu",
        max_loras=0,
        settings={"task": "generate", "pooling": "mean", "normalize": False},
    )
    backend, _ = create(spec)
    assert isinstance(backend, HfBackend)
    try:
        description = await backend.start(Silent())
        assert description.compatibility is not None
        assert backend.pooling is not None
        vectors = await backend.pooling.embed(list(IDS), None, None)
    finally:
        await backend.close()
    model = subject.load().base_model
    with torch.inference_mode():
        for ids, vector in zip(IDS, vectors, strict=True):
            wanted = model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0)
            found = torch.frombuffer(bytearray(vector), dtype=torch.float32)
            assert torch.allclose(found, wanted, atol=1e-4)


async def test_an_abort_costs_no_more_than_the_token_under_way(client: WorkerClient) -> None:
    """The engine's own count stands still once it is idle, far from the end of what was asked."""
    request = client.start(PROMPTS[0], max_tokens=4000, **GREEDY)
    while not client.queues[request].qsize() > 3:
        await asyncio.sleep(0.01)
    before = (await client.next_stats()).generated_tokens
    await client.abort(request)
    async with asyncio.timeout(GUARD_S):
        while (stats := await client.next_stats()).running:
            pass
    assert stats.waiting == 0
    assert stats.generated_tokens - before < 4000 - 100
    assert (await client.next_stats()).generated_tokens == stats.generated_tokens


async def test_sequences_wait_where_their_caches_would_not_fit(
    folder: Path, start_worker: Any, connect: Any
) -> None:
    """Of 3 layers with 64 keys and 64 values in float32, 1,536 bytes a token: room for two of 1,000
    tokens, and not for three."""
    settings = {"kv_cache_bytes": 1536 * 2500}
    worker = start_worker(**_spec(folder, max_loras=0, max_model_len=2048, settings=settings))
    client = await connect(worker)
    requests = [client.start(PROMPTS[2], max_tokens=999, **GREEDY) for _ in range(3)]
    await client.finish(requests[0])
    assert client.ended[0] == requests[0]
    for request in requests[1:]:
        await client.finish(request)
    assert client.ended[-1] == requests[2]


async def test_a_context_that_cannot_fit_is_refused_at_start(
    folder: Path, start_worker: Any
) -> None:
    worker = start_worker(**_spec(folder, settings={"kv_cache_bytes": 10_000}))
    assert await worker.exit_status() == 2
    assert "lower max_model_len or raise kv_cache_bytes" in worker.log_path.read_text()
