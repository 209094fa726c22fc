"""The HF engine, as a real worker process over its socket."""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.contract.messages import Admitted, FailureKind, FinishReason, PromptScored
from workers.contract.parts import Text, Tokens

from . import models
from .conftest import WorkerClient, WorkerProcess

PROMPTS = [
    "The quick brown fox",
    "Grüße aus München, 你好世界",
    "0123456789 + - * /",
    '{"name": "Ada", "age": 36',
    "yes no maybe red green blue " * 8,
    "a",
]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make_model(tmp_path_factory.mktemp("models") / "qwen3")


@pytest.fixture(scope="module")
def worker(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    process = WorkerProcess(
        tmp_path_factory.mktemp("hf"),
        backend="hf",
        model_path=str(model_folder),
        dtype="float32",
        device="cpu",
        max_num_seqs=8,
        max_loras=0,
    )
    yield process
    process.end()


async def test_a_batch_gives_what_sequential_generate_gives(
    client: WorkerClient, model_folder: Path
) -> None:
    model = models.load(model_folder)
    options = {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True}
    requests = [client.start(prompt, **options) for prompt in PROMPTS * 3]
    answers = [await client.finish(request) for request in requests]
    for prompt, answer in zip(PROMPTS * 3, answers, strict=True):
        assert answer.ids == models.greedy(model, prompt, 24)
        assert answer.end.reason == FinishReason.LENGTH


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 4, "attention_bias": True}),
        (
            "qwen3",
            {
                "use_sliding_window": True,
                "sliding_window": 16,
                "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
                "tie_word_embeddings": True,
            },
        ),
    ],
)
async def test_other_models_with_small_chunks(
    start_worker: Any, connect: Any, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    folder = models.make_model(tmp_path / "model", kind, **changes)
    client = await connect(
        start_worker(
            backend="hf",
            model_path=str(folder),
            device="cpu",
            settings={"prefill_tokens_per_step": 7},
        )
    )
    model = models.load(folder)
    options = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}
    requests = [client.start(prompt, **options) for prompt in PROMPTS]
    for prompt, request in zip(PROMPTS, requests, strict=True):
        assert (await client.finish(request)).ids == models.greedy(model, prompt, 12)


async def test_a_seed_gives_the_same_alone_and_in_company(client: WorkerClient) -> None:
    options: dict[str, Any] = {"max_tokens": 20, "seed": 11, "ignore_eos": True}
    for filters in ({}, {"top_p": 0.9}, {"top_k": 20, "temperature": 0.7}, {"min_p": 0.05}):
        alone = await client.generate(PROMPTS[0], **options, **filters)
        company = [client.start(prompt, max_tokens=30) for prompt in PROMPTS]
        among = await client.generate(PROMPTS[0], **options, **filters)
        other = await client.generate(PROMPTS[0], **{**options, "seed": 12}, **filters)
        assert among.ids == alone.ids
        assert other.ids != alone.ids
        for request in company:
            await client.finish(request)


async def test_logprobs_are_the_models_own(client: WorkerClient, model_folder: Path) -> None:
    model = models.load(model_folder)
    answer = await client.generate(
        PROMPTS[0], max_tokens=6, logprobs=5, temperature=0.3, seed=1, ignore_eos=True
    )
    prompt_ids = models.tokenizer().encode(PROMPTS[0])
    ids = torch.tensor([prompt_ids + answer.ids])
    with torch.inference_mode():
        expected = torch.log_softmax(model(ids).logits[0].float(), -1)
    for place, entry in enumerate(answer.logprobs):
        row = expected[len(prompt_ids) + place - 1]
        assert entry.token_id == answer.ids[place]
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-3)
        best = torch.topk(row, 5)
        assert [top.token_id for top in entry.top] == best.indices.tolist()
        assert [top.logprob for top in entry.top] == pytest.approx(best.values.tolist(), abs=1e-3)


async def test_prompt_logprobs_without_output(client: WorkerClient, model_folder: Path) -> None:
    model = models.load(model_folder)
    for prompt in (PROMPTS[0], PROMPTS[4] * 8):
        answer = await client.generate(prompt, max_tokens=0, prompt_logprobs=2)
        assert [type(e) for e in answer.events[:2]] == [Admitted, PromptScored]
        assert (answer.end.reason, answer.end.completion_tokens) == (FinishReason.LENGTH, 0)
        ids = models.tokenizer().encode(prompt)
        with torch.inference_mode():
            expected = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)
        entries = answer.events[1].tokens
        assert [entry.token_id for entry in entries] == ids
        assert math.isnan(entries[0].logprob)
        for place, entry in enumerate(entries[1:]):
            assert entry.logprob == pytest.approx(float(expected[place, entry.token_id]), abs=1e-3)


async def test_utf8_is_whole_and_bytes_are_exact(client: WorkerClient) -> None:
    answers = [
        await client.generate("你好", max_tokens=60, seed=seed, logprobs=0, temperature=1.5)
        for seed in range(4)
    ]
    for answer in answers:
        data = b"".join(entry.data for entry in answer.logprobs)
        assert answer.text == models.tokenizer().decode(answer.ids, skip_special_tokens=True)
        assert answer.text == data.decode("utf-8", "replace") or "<|" in data.decode(
            "utf-8", "replace"
        )
    assert any("\ufffd" in entry.token for answer in answers for entry in answer.logprobs)


async def test_bias_penalties_and_minimum(client: WorkerClient) -> None:
    ids = models.tokenizer().encode("fox")[:1]
    forced = await client.generate("a", max_tokens=5, temperature=0.0, logit_bias={ids[0]: 100.0})
    assert forced.ids == ids * 5
    varied = await client.generate(
        "a",
        max_tokens=5,
        temperature=0.0,
        logit_bias={ids[0]: 10.0},
        frequency_penalty=2.0,
        presence_penalty=2.0,
        repetition_penalty=50.0,
    )
    assert varied.ids.count(ids[0]) < 5
    eos = models.tokenizer().eos_token_id
    short = await client.generate("a", max_tokens=9, logit_bias={eos: 100.0})
    assert (short.ids, short.end.reason, short.end.completion_tokens) == ([], "stop", 1)
    longer = await client.generate("a", max_tokens=9, min_tokens=4, logit_bias={eos: 100.0})
    assert (len(longer.ids), longer.end.reason) == (4, FinishReason.STOP)


async def test_stop_token_and_stop_string(client: WorkerClient) -> None:
    whole = await client.generate(
        PROMPTS[0], temperature=0.0, max_tokens=20, ignore_eos=True, logprobs=0
    )
    third = whole.ids[2]
    stopped = await client.generate(
        PROMPTS[0], temperature=0.0, max_tokens=20, ignore_eos=True, stop_token_ids=[third]
    )
    assert stopped.ids == whole.ids[: whole.ids.index(third)]
    assert stopped.end.stop == third
    stop = whole.text[3:6]
    cut = await client.generate(
        PROMPTS[0], temperature=0.0, max_tokens=20, ignore_eos=True, stop=[stop]
    )
    assert (cut.text, cut.end.stop) == (whole.text[: whole.text.index(stop)], stop)


async def test_prompts_are_refused_by_length_and_vocabulary(client: WorkerClient) -> None:
    long = await client.generate([Tokens([5] * 512)])
    assert long.end.kind == FailureKind.CONTEXT_LENGTH_EXCEEDED
    assert long.end.message.startswith("This model's maximum context length is 512 tokens.")
    assert (await client.generate([Tokens([448])])).end.param == "prompt"
    edge = await client.generate([Tokens([5] * 511)], ignore_eos=True)
    assert (edge.end.reason, edge.end.completion_tokens) == (FinishReason.LENGTH, 1)


async def test_content_never_becomes_control(client: WorkerClient) -> None:
    special = models.tokenizer().convert_tokens_to_ids("<|im_end|>")
    from workers.contract.messages import Tokenize

    control = (await client.ask(Tokenize, [Text("<|im_end|>", control=True)])).ids
    content = (await client.ask(Tokenize, [Text("<|im_end|>")])).ids
    assert control == [special]
    assert special not in content
    assert len(content) > 1


async def test_abort_frees_the_place(client: WorkerClient) -> None:
    """A busy machine can keep this process waiting until the streams are at their own ends: then
    nothing was aborted, and another attempt is made."""
    for _ in range(20):
        requests = [client.start("a", ignore_eos=True) for _ in range(8)]
        for request in requests:
            await client.queues[request].get()
        waiting = client.start("b", max_tokens=2, ignore_eos=True)
        await client.abort(*requests)
        assert (await client.finish(waiting)).end.completion_tokens == 2
        ends = [(await client.finish(request)).end.reason for request in requests]
        if ends == [FinishReason.ABORT] * 8:
            break
    else:
        pytest.fail("not all streams were ever aborted")
    stats = await client.next_stats()
    assert (stats.running, stats.waiting) == (0, 0)


async def test_prefixes_are_shared_without_changing_the_answer(
    client: WorkerClient, model_folder: Path
) -> None:
    prompt = "red green blue yes no maybe " * 10 + str(random.Random(3).random())
    expected = models.greedy(models.load(model_folder), prompt, 8)
    options = {"temperature": 0.0, "max_tokens": 8, "ignore_eos": True}
    requests = [client.start(prompt, **options) for _ in range(6)]
    answers = [await client.finish(request) for request in requests]
    assert all(answer.ids == expected for answer in answers)
    num_prompt = answers[0].end.prompt_tokens
    assert [answer.end.cached_tokens for answer in answers[1:]] == [num_prompt] * 5
    again = await client.generate(prompt + " and more", **options)
    assert again.end.cached_tokens >= num_prompt - 2
    assert again.ids == models.greedy(models.load(model_folder), prompt + " and more", 8)


async def test_preemption_changes_no_answer(
    start_worker: Any, connect: Any, model_folder: Path
) -> None:
    """Room for some 600 tokens: eight sequences of 130 outgrow it."""
    row_bytes = 3 * 2 * 32 * 2 * 4
    client = await connect(
        start_worker(
            backend="hf",
            model_path=str(model_folder),
            device="cpu",
            max_num_seqs=8,
            settings={"kv_cache_bytes": row_bytes * 600},
        )
    )
    model = models.load(model_folder)
    prompts = [f"{n} {PROMPTS[n % len(PROMPTS)]}" for n in range(8)]
    options = {"temperature": 0.0, "max_tokens": 110, "ignore_eos": True}
    requests = [client.start(prompt, **options) for prompt in prompts]
    for prompt, request in zip(prompts, requests, strict=True):
        answer = await client.finish(request)
        assert answer.end.completion_tokens == 110
        assert answer.ids[:60] == models.greedy(model, prompt, 60)


async def test_out_of_memory_fails_the_request_and_not_the_engine(
    start_worker: Any, connect: Any, tmp_path: Path
) -> None:
    import resource

    folder = models.make_model(
        tmp_path / "model", max_position_embeddings=32768, num_key_value_heads=4, head_dim=128
    )
    settings = {"kv_cache_bytes": 1 << 33}
    worker = start_worker(
        backend="hf", model_path=str(folder), device="cpu", max_loras=0, settings=settings
    )
    client = await connect(worker)
    await client.generate("warm", max_tokens=2)
    pid = worker.process.pid
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    limit = pages * os.sysconf("SC_PAGE_SIZE") + (64 << 20)
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, before[1]))
    small = client.start("small", max_tokens=200, ignore_eos=True)
    failed = await client.generate([Tokens([5] * 20000)], max_tokens=5)
    assert failed.end.kind == FailureKind.OUT_OF_MEMORY
    assert (await client.finish(small)).end.completion_tokens == 200
    resource.prlimit(pid, resource.RLIMIT_AS, before)
    assert (await client.generate("after", max_tokens=2, ignore_eos=True)).end.reason == "length"


async def test_killed_mid_stream_the_connection_ends(
    start_worker: Any, connect: Any, model_folder: Path
) -> None:
    worker = start_worker(backend="hf", model_path=str(model_folder), device="cpu")
    client = await connect(worker)
    request = client.start("a", ignore_eos=True)
    await client.queues[request].get()
    worker.signal(signal.SIGKILL)
    await client.closed()
    assert await worker.exit_status() == -signal.SIGKILL


async def test_term_ends_the_process_cleanly(
    start_worker: Any, connect: Any, model_folder: Path
) -> None:
    worker = start_worker(backend="hf", model_path=str(model_folder), device="cpu")
    client = await connect(worker)
    request = client.start("a", max_tokens=50, ignore_eos=True)
    await client.queues[request].get()
    worker.signal(signal.SIGTERM)
    assert (await client.finish(request)).end.completion_tokens == 50
    assert await worker.exit_status() == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"model_path": "/nonexistent"},
        {"max_model_len": 4096},
        {"device": "tpu"},
        {"dtype": "int3"},
        {"settings": {"typo": 1}},
        {"settings": {"kv_cache_bytes": 1000}},
    ],
)
async def test_it_refuses_to_start_on_what_it_cannot_honour(
    start_worker: Any, model_folder: Path, changes: dict[str, Any]
) -> None:
    spec = {"backend": "hf", "model_path": str(model_folder), "device": "cpu", **changes}
    worker = start_worker(**spec)
    assert await worker.exit_status() == 2
    assert "Traceback" not in worker.log_path.read_text()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
async def test_half_precision_runs(
    start_worker: Any, connect: Any, model_folder: Path, dtype: str
) -> None:
    client = await connect(
        start_worker(backend="hf", model_path=str(model_folder), device="cpu", dtype=dtype)
    )
    options = {"temperature": 0.0, "max_tokens": 6, "ignore_eos": True}
    answers = await asyncio.gather(*(client.generate(p, **options) for p in PROMPTS))
    assert all(answer.end.completion_tokens == 6 for answer in answers)
