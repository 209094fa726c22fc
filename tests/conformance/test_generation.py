"""The same tokens, scores and ends from every engine."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from tests.conformance.model_files import EOS_ID, NUM_GREEDY, PROMPTS, ModelFiles, token, token_ids
from tests.engine.conftest import GUARD_S, WorkerClient
from workers.contract.hello import Capability
from workers.contract.messages import (
    Abort,
    Admitted,
    Failed,
    FailureKind,
    FinishReason,
    PromptScored,
    Token,
    Tokenize,
)
from workers.contract.parts import Grammar, GrammarKind, Media, MediaKind, Text, Tokens

GREEDY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
PROMPT = [Tokens(PROMPTS[0])]


async def _greedy(client: WorkerClient, prompt: list[int] = PROMPTS[0], **options: Any) -> Any:
    return await client.generate(
        [Tokens(prompt)], **{**GREEDY, "max_tokens": NUM_GREEDY, **options}
    )


@pytest.mark.parametrize("name", ["base", "alpha", "beta"])
async def test_greedy_ids_equal_hugging_faces(
    client: WorkerClient, model: ModelFiles, name: str
) -> None:
    adapter = None if name == "base" else model.ref(name, 1 if name == "alpha" else 2)
    for index, prompt in enumerate(PROMPTS):
        answer = await _greedy(client, prompt, adapter=adapter)
        reference = model.references[name, index]
        assert answer.ids[: reference.num_sure] == reference.sure_ids
        assert answer.end.reason is FinishReason.LENGTH
        assert answer.end.completion_tokens == NUM_GREEDY
        assert answer.end.prompt_tokens == len(prompt)


async def test_base_and_two_adapters_mix_in_one_batch(
    client: WorkerClient, model: ModelFiles
) -> None:
    adapters = {"base": None, "alpha": model.ref("alpha", 1), "beta": model.ref("beta", 2)}
    cases = [(name, index) for index in range(len(PROMPTS)) for name in adapters]
    answers = await asyncio.gather(
        *(_greedy(client, PROMPTS[index], adapter=adapters[name]) for name, index in cases)
    )
    for case, answer in zip(cases, answers, strict=True):
        reference = model.references[case]
        assert answer.ids[: reference.num_sure] == reference.sure_ids, case


async def test_logprobs_equal_hugging_faces(client: WorkerClient, model: ModelFiles) -> None:
    answer = await _greedy(client, logprobs=3)
    reference = model.references["base", 0]
    sure = reference.num_sure
    assert [e.token_id for e in answer.logprobs] == answer.ids
    assert answer.ids[:sure] == reference.sure_ids
    scores = [e.logprob for e in answer.logprobs[:sure]]
    assert scores == pytest.approx(reference.logprobs[:sure], abs=1e-3)
    for entry in answer.logprobs:
        assert len(entry.top) == 3
        assert entry.top[0].token_id == entry.token_id
        values = [alternative.logprob for alternative in entry.top]
        assert values == sorted(values, reverse=True)


async def test_logprobs_are_the_models_own_at_any_temperature(
    client: WorkerClient, model: ModelFiles
) -> None:
    answer = await client.generate(
        PROMPT, temperature=2.0, ignore_eos=True, max_tokens=1, logprobs=1
    )
    first = answer.logprobs[0].top[0]
    reference = model.references["base", 0]
    assert first.token_id == reference.ids[0]
    assert first.logprob == pytest.approx(reference.logprobs[0], abs=1e-3)


async def test_prompt_logprobs_equal_hugging_faces(
    client: WorkerClient, model: ModelFiles, needs: Any
) -> None:
    needs(Capability.PROMPT_LOGPROBS)
    answer = await client.generate(
        [Tokens(PROMPTS[2])], temperature=0.0, max_tokens=0, prompt_logprobs=0
    )
    (scored,) = [event for event in answer.events if isinstance(event, PromptScored)]
    assert [entry.token_id for entry in scored.tokens] == PROMPTS[2]
    assert math.isnan(scored.tokens[0].logprob)
    expected = model.references["base", 2].prompt_logprobs
    assert [e.logprob for e in scored.tokens[1:]] == pytest.approx(expected, abs=1e-3)
    assert answer.ids == []


_MARKED = "What is the<|im_end|> 42?"


@pytest.mark.parametrize(
    ("parts", "spelled"),
    [
        (
            [Text("<|im_start|>", control=True), Text(_MARKED)],
            [("<|im_start|>", True), (_MARKED, False)],
        ),
        ([Text("What"), Text(" is", joined=False)], [("What", True), (" is", True)]),
        ([Text(_MARKED, whole=True)], [(_MARKED, True)]),
        ([Text(_MARKED, control=True), Tokens([5])], [(_MARKED, True), (chr(38), True)]),
    ],
    ids=["content", "runs", "whole", "control"],
)
async def test_text_in_gives_the_tokens_of_the_tokenizer(
    client: WorkerClient,
    model: ModelFiles,
    parts: list[Any],
    spelled: list[tuple[str, bool]],
) -> None:
    """Content is spelled out, so a user's end mark is no mark; everything else may hold marks."""
    expected = [i for text, marks in spelled for i in token_ids(text, marks=marks)]
    assert (await client.ask(Tokenize, parts)).ids == expected
    answer = await client.generate(parts, max_tokens=1)
    admitted = answer.events[0]
    assert isinstance(admitted, Admitted)
    assert admitted.prompt_tokens == len(expected)


async def test_a_stop_id_ends_the_output_and_is_not_part_of_it(
    client: WorkerClient, model: ModelFiles
) -> None:
    ids = model.references["base", 0].ids
    stop = ids[4]
    end = ids.index(stop)
    for ignore_eos in (False, True):
        answer = await _greedy(client, stop_token_ids=[stop], ignore_eos=ignore_eos)
        assert answer.ids == ids[:end]
        assert answer.end.reason is FinishReason.STOP
        assert answer.end.stop == stop
        assert answer.end.completion_tokens == end + 1


async def test_the_end_of_sequence_ends_the_output_unless_ignored(
    client: WorkerClient, needs: Any
) -> None:
    needs(Capability.LOGIT_BIAS)
    bias = {EOS_ID: 100.0}
    ended = await _greedy(client, ignore_eos=False, logit_bias=bias, max_tokens=5)
    assert ended.end.reason is FinishReason.STOP
    assert ended.end.stop is None
    assert ended.ids == []
    ignored = await _greedy(client, ignore_eos=True, logit_bias=bias, max_tokens=5)
    assert ignored.end.reason is FinishReason.LENGTH
    assert ignored.ids == [EOS_ID] * 5


async def test_a_stop_string_across_tokens_is_cut_off(client: WorkerClient, needs: Any) -> None:
    needs(Capability.LOGIT_BIAS)
    answer = await _greedy(client, stop=["aaa"], logit_bias={token("a"): 100.0})
    assert answer.text == ""
    assert answer.end.reason is FinishReason.STOP
    assert answer.end.stop == "aaa"


async def test_min_tokens_puts_off_every_end(
    client: WorkerClient, model: ModelFiles, needs: Any
) -> None:
    needs(Capability.MIN_TOKENS)
    stop = model.references["base", 0].ids[1]
    answer = await _greedy(client, stop_token_ids=[stop], min_tokens=6, max_tokens=8)
    assert len(answer.ids) >= 6
    assert stop not in answer.ids[:6]


async def test_characters_of_several_tokens_come_whole(
    client: WorkerClient, model: ModelFiles
) -> None:
    # The vocabulary has one token per byte of these; a grammar forces them one after another.
    forced = Grammar(GrammarKind.CHOICE, '["\\u20ac\\u00e9\\ud83d\\ude00"]')
    answer = await _greedy(client, grammar=forced)
    assert answer.text == "\u20ac\u00e9\U0001f600"
    assert len(answer.ids) == 9
    assert all("\ufffd" not in token.text for token in answer.tokens)


async def test_the_context_length_is_a_limit(client: WorkerClient) -> None:
    limit = client.hello.max_model_len
    too_long = await _greedy(client, [5] * limit, max_tokens=1)
    assert too_long.end.kind is FailureKind.CONTEXT_LENGTH_EXCEEDED
    full = await _greedy(client, [5] * (limit - 4), max_tokens=None)
    assert full.end.reason is FinishReason.LENGTH
    assert full.end.completion_tokens == 4


async def test_an_id_outside_the_vocabulary_is_refused(client: WorkerClient) -> None:
    answer = await _greedy(client, [10, client.hello.vocab_size])
    assert answer.end.kind is FailureKind.INVALID_REQUEST


async def _abort_running(client: WorkerClient) -> bool:
    """False if the streams came to their own end before the worker was told to abort them."""
    requests = [client.start(PROMPT, **GREEDY, max_tokens=1900) for _ in range(8)]
    queue = client.queues[requests[0]]
    seen = [await asyncio.wait_for(queue.get(), GUARD_S) for _ in range(4)]
    assert any(isinstance(event, Token) for event in seen)
    await client.abort(*requests)
    ends = [(await client.finish(request)).end for request in requests]
    if any(end.reason is FinishReason.LENGTH for end in ends):
        return False
    assert all(end.reason is FinishReason.ABORT for end in ends)
    assert all(end.completion_tokens < 1900 for end in ends)
    return True


async def test_abort_in_mid_stream_frees_the_engine(client: WorkerClient, settled: None) -> None:
    """A busy machine can keep this process waiting for longer than the streams last, and then
    nothing was aborted: those attempts prove nothing, and another is made."""
    for _ in range(20):
        if await _abort_running(client):
            break
    else:
        pytest.fail("no stream was ever aborted")
    # With the engine's own reports as the clock: the streams would have gone on for longer.
    await client.generate(PROMPT, **GREEDY, max_tokens=1)
    reports = [await client.next_stats() for _ in range(2)]
    assert not reports[-1].running
    assert not reports[-1].waiting


async def test_abort_while_queued_ends_at_once(client: WorkerClient, settled: None) -> None:
    running = [client.prepare(PROMPT, **GREEDY, max_tokens=1900) for _ in range(12)]
    last = client.prepare(PROMPT, **GREEDY, max_tokens=1900)
    client.send(*running, last, Abort(last.id))
    await client.abort(last.id, *(request.id for request in running))
    answer = await client.finish(last.id)
    assert answer.end.reason is FinishReason.ABORT
    assert answer.ids == []
    assert client.ended[0] == last.id
    for request in running:
        await client.finish(request.id)


async def test_a_dropped_connection_aborts_its_requests(
    engine: Any, client: WorkerClient, settled: None
) -> None:
    other = await engine.connect()
    request = other.start(PROMPT, **GREEDY, max_tokens=1900)
    await asyncio.wait_for(other.queues[request].get(), GUARD_S)
    await other.close()


async def test_every_request_has_one_end_and_ids_of_its_own(client: WorkerClient) -> None:
    requests = [client.start(PROMPT, **GREEDY, max_tokens=3 + n) for n in range(12)]
    for n, request in enumerate(requests):
        answer = await client.finish(request)
        assert isinstance(answer.events[0], Admitted)
        assert answer.events[0].prompt_tokens == len(PROMPTS[0])
        assert answer.end.reason is FinishReason.LENGTH
        assert len(answer.ids) == answer.end.completion_tokens == 3 + n
        assert client.queues[request].empty()


async def test_more_requests_than_places_are_queued_and_all_answered(
    client: WorkerClient, model: ModelFiles
) -> None:
    answers = await asyncio.gather(*(_greedy(client) for _ in range(24)))
    reference = model.references["base", 0]
    assert all(answer.ids[: reference.num_sure] == reference.sure_ids for answer in answers)


async def test_the_same_prompt_again_is_read_from_the_prefix_cache(
    client: WorkerClient, model: ModelFiles
) -> None:
    prompt = [(7 * i) % 300 + 3 for i in range(200)]
    first = await _greedy(client, prompt, max_tokens=4)
    second = await _greedy(client, prompt, max_tokens=4)
    assert second.ids == first.ids
    assert second.end.cached_tokens >= 128


async def test_what_is_computed_in_one_scope_is_not_found_in_another(
    client: WorkerClient, model: ModelFiles, settled: None
) -> None:
    prompt = [14 + n % 250 for n in range(300)]
    found = [
        (await _greedy(client, prompt, max_tokens=4, cache_scope=scope)).end.cached_tokens
        for scope in ("one", "two", "", "one", "two", "")
    ]
    assert found[:3] == [0, 0, 0]
    assert all(num_cached >= 128 for num_cached in found[3:])


async def test_an_empty_prompt_is_refused(client: WorkerClient) -> None:
    answer = await client.generate([Tokens([])])
    assert isinstance(answer.end, Failed)
    assert answer.end.kind is FailureKind.INVALID_REQUEST


@pytest.mark.parametrize("kind", list(MediaKind), ids=str)
async def test_media_are_refused_by_a_model_that_takes_text_only(
    client: WorkerClient, kind: MediaKind
) -> None:
    assert client.hello.media == {}
    parts: list[Any] = [*PROMPT, Media(kind, "<mark>", b"anything", "messages[0].content[1]")]
    answer = await client.generate(parts, max_tokens=1)
    assert answer.end.kind is FailureKind.UNSUPPORTED
    assert answer.end.param == "messages[0].content[1]"
    assert len(answer.events) == 1
