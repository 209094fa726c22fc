"""What the HF engine computes once for several requests, between whom; what a seed holds for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workers.contract.parts import Tokens

from . import models
from .conftest import Answer, WorkerClient, WorkerProcess

NUM_KEPT = 4
OPTIONS: dict[str, Any] = {"temperature": 0.0, "max_tokens": 8, "ignore_eos": True}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make_model(tmp_path_factory.mktemp("models") / "qwen3")


@pytest.fixture(scope="module")
def worker(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    process = WorkerProcess(
        tmp_path_factory.mktemp("hf"),
        backend="hf",
        model_path=str(model_folder),
        dtype="bfloat16",
        device="cpu",
        max_num_seqs=8,
        max_loras=4,
        settings={"prefix_rows": NUM_KEPT},
    )
    yield process
    process.end()


def _prompt(seed: int, size: int = 60) -> list[Any]:
    return [Tokens(random.Random(seed).choices(range(3, 400), k=size))]


async def _cached(client: WorkerClient, prompt: list[Any], **options: Any) -> int:
    return (await client.generate(prompt, **OPTIONS, **options)).end.cached_tokens


@pytest.mark.parametrize("num_prompts", [2, NUM_KEPT])
async def test_requests_that_alternate_between_prompts_find_them_again(
    client: WorkerClient, num_prompts: int
) -> None:
    """One after another, so that the engine is idle in between; each as often as may be."""
    prompts = [_prompt(100 * num_prompts + n) for n in range(num_prompts)]
    assert [await _cached(client, prompt) for prompt in prompts] == [0] * num_prompts
    for _ in range(3):
        assert [await _cached(client, prompt) for prompt in prompts] == [60] * num_prompts


async def test_conversations_that_take_turns_go_on_from_where_they_were(
    client: WorkerClient,
) -> None:
    """Each turn's prompt is the last turn's with its answer, and some more."""
    told = [_prompt(900 + n)[0].ids for n in range(NUM_KEPT)]
    known = [0] * NUM_KEPT
    for turn in range(4):
        for n in range(NUM_KEPT):
            answer = await client.generate([Tokens(told[n])], **OPTIONS)
            assert answer.end.cached_tokens == known[n]
            told[n] = told[n] + answer.ids
            known[n] = len(told[n]) - 1  # the last token's own were never needed
            told[n] = told[n] + _prompt(turn, 20)[0].ids


async def test_requests_that_alternate_between_adapters_find_their_prompts_again(
    client: WorkerClient, model_folder: Path, tmp_path: Path
) -> None:
    adapters = [None, *(models.make_adapter(model_folder, tmp_path / f"a{n}", n) for n in (1, 2))]
    prompt = _prompt(300)
    assert [await _cached(client, prompt, adapter=a) for a in adapters] == [0] * 3
    for _ in range(3):
        assert [await _cached(client, prompt, adapter=a) for a in adapters] == [60] * 3


async def test_what_is_computed_in_one_scope_is_not_found_in_another(client: WorkerClient) -> None:
    prompt = _prompt(400)
    assert await _cached(client, prompt, cache_scope="one") == 0
    assert await _cached(client, prompt, cache_scope="two") == 0
    assert await _cached(client, prompt) == 0
    assert await _cached(client, prompt, cache_scope="one") == 60
    assert await _cached(client, prompt, cache_scope="two") == 60


async def test_scopes_share_nothing_while_they_run_either(client: WorkerClient) -> None:
    prompt = _prompt(500, 200)
    requests = [
        client.prepare(prompt, cache_scope=scope, **OPTIONS)
        for scope in ("one", "two", "one", "three")
    ]
    client.send(*requests)
    answers = [await client.finish(request.id) for request in requests]
    assert [answer.end.cached_tokens for answer in answers] == [0, 0, 200, 0]
    assert len({tuple(answer.ids) for answer in answers}) == 1


async def _four_answers(client: WorkerClient, prompt: list[Any]) -> list[Answer]:
    """As the gateway sends a request with `n: 4` and a seed."""
    requests = [
        client.prepare(prompt, seed=40 + n, max_tokens=40 - 7 * n, ignore_eos=True, logprobs=0)
        for n in range(4)
    ]
    client.send(*requests)
    return [await client.finish(request.id) for request in requests]


@pytest.mark.parametrize("size", [9, 16, 17, 18, 40, 300])
async def test_a_seed_gives_the_same_answers_again(client: WorkerClient, size: int) -> None:
    """To the bytes of their logprobs, in bfloat16, with and without the prompt in the cache; the
    first tokens of all four come from the same logits."""
    prompt = _prompt(600 + size, size)
    first = await _four_answers(client, prompt)
    for _ in range(3):
        again = await _four_answers(client, prompt)
        assert [answer.ids for answer in again] == [answer.ids for answer in first]
        logprobs = [[entry.logprob for entry in answer.logprobs] for answer in again]
        assert logprobs == [[entry.logprob for entry in answer.logprobs] for answer in first]
    assert len({tuple(answer.ids) for answer in first}) == 4


async def test_the_answers_to_one_prompt_begin_from_the_same_logits(client: WorkerClient) -> None:
    prompt = _prompt(700, 50)
    requests = [
        client.prepare(prompt, temperature=0.0, max_tokens=1, ignore_eos=True, logprobs=5)
        for _ in range(4)
    ]
    client.send(*requests)
    answers = [await client.finish(request.id) for request in requests]
    begun = [[(top.token_id, top.logprob) for top in a.logprobs[0].top] for a in answers]
    assert begun == begun[:1] * 4
    assert [answer.end.cached_tokens for answer in answers] == [0, 50, 50, 50]


async def test_a_long_conversation_and_many_short_ones_give_what_they_give_alone(
    start_worker: Any, connect: Any, tmp_path: Path
) -> None:
    """In a budget of four times the long one, with prompts that begin alike; the second time in so
    little that sequences are preempted."""
    folder = models.make_model(tmp_path / "model", max_position_embeddings=2048)
    model = models.load(folder)
    row_bytes = 3 * 2 * 32 * 2 * 4
    sizes = random.Random(9)
    prompts = ["red green blue yes no maybe 0123456789 " * 60]
    prompts += [f"{prompts[0][: sizes.randrange(4, 90)]} {n}" for n in range(60)]
    expected = [models.greedy(model, prompt, 40) for prompt in prompts]
    for num_tokens, max_running in ((4 * 2048, 61), (2048, 60)):
        client = await connect(
            start_worker(
                backend="hf",
                model_path=str(folder),
                device="cpu",
                dtype="float32",
                max_num_seqs=64,
                max_loras=0,
                settings={"kv_cache_bytes": row_bytes * num_tokens},
            )
        )
        options = {"temperature": 0.0, "ignore_eos": True}
        long = client.prepare(prompts[0], max_tokens=150, **options)
        short = [client.prepare(prompt, max_tokens=40, **options) for prompt in prompts[1:]]
        client.send(long, *short)
        answers = [await client.finish(request.id) for request in (long, *short)]
        assert answers[0].end.completion_tokens == 150
        for answer, ids in zip(answers, expected, strict=True):
            assert answer.ids[:40] == ids
        if max_running == 61:
            assert client.ended[-1] == long.id
