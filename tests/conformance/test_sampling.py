"""Each sampling parameter is honoured, or declared absent and refused by its name."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from tests.conformance.model_files import PROMPTS, ModelFiles, blanks, token
from tests.engine.conftest import WorkerClient
from workers.contract.hello import Capability
from workers.contract.messages import Failed, FailureKind, FinishReason
from workers.contract.parts import Grammar, GrammarKind, Tokens

PROMPT = [Tokens(PROMPTS[0])]
_NOISE = list(range(300, 340, 3))


async def _sample(client: WorkerClient, **options: Any) -> Any:
    return await client.generate(PROMPT, **{"max_tokens": 12, "ignore_eos": True, **options})


async def _draw(client: WorkerClient, **options: Any) -> Any:
    """So hot, after a prompt that means nothing, that no two draws are alike."""
    hot = {"temperature": 2.0, "max_tokens": 12, "ignore_eos": True}
    return await client.generate([Tokens(_NOISE)], **{**hot, **options})


async def test_a_seed_gives_the_same_answer_again(client: WorkerClient, needs: Any) -> None:
    needs(Capability.SEED)
    answers = [await _draw(client, seed=seed) for seed in (7, 8, 7, -1, -1)]
    assert answers[0].ids == answers[2].ids
    assert answers[3].ids == answers[4].ids
    assert len({tuple(answer.ids) for answer in answers}) == 3


async def test_a_seed_holds_whatever_else_is_in_the_batch(client: WorkerClient, needs: Any) -> None:
    needs(Capability.SEED)
    alone = await _draw(client, seed=3, max_tokens=6)
    crowd = await asyncio.gather(*(_draw(client, seed=s, max_tokens=6) for s in range(8)))
    assert crowd[3].ids == alone.ids
    assert len({tuple(answer.ids) for answer in crowd}) == 8


async def test_without_a_seed_answers_differ(client: WorkerClient, model: ModelFiles) -> None:
    answers = await asyncio.gather(*(_draw(client) for _ in range(4)))
    assert len({tuple(answer.ids) for answer in answers}) > 1


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=str)
async def test_a_filter_that_leaves_one_token_is_greedy(
    client: WorkerClient, model: ModelFiles, options: dict[str, Any]
) -> None:
    answer = await _sample(client, temperature=1.0, **options)
    sure = model.references["base", 0].sure_ids[:12]
    assert answer.ids[: len(sure)] == sure


async def test_logit_bias_forces_and_bans(client: WorkerClient, model: ModelFiles) -> None:
    forced = await _sample(client, temperature=0.0, logit_bias={50: 100.0})
    assert forced.ids == [50] * 12
    first = model.references["base", 0].ids[0]
    banned = await _sample(client, temperature=0.0, logit_bias={first: -100.0})
    assert first not in banned.ids


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
async def test_penalties_count_the_output_only(
    client: WorkerClient, model: ModelFiles, penalty: str
) -> None:
    """Two tokens a bias of 20 apart: a penalty of 2 for each time the first was said lets the
    second one through in the end, a penalty of 2 for having been said never does."""
    bias = {50: 120.0, 51: 100.0}
    answer = await _sample(
        client, temperature=0.0, logit_bias=bias, max_tokens=32, **{penalty: 2.0}
    )
    assert set(answer.ids) <= {50, 51}
    assert (51 in answer.ids) == (penalty == "frequency_penalty")


async def test_repetition_penalty_looks_at_the_prompt_too(
    client: WorkerClient, model: ModelFiles, needs: Any
) -> None:
    needs(Capability.REPETITION_PENALTY)
    first = model.references["base", 0].ids[0]
    prompt = [Tokens([*PROMPTS[0]])]
    plain = await client.generate(prompt, temperature=0.0, max_tokens=1)
    assert plain.ids == [first]
    # The winner is put into a prompt whose end is the same: its score must fall.
    told = [Tokens([first, *PROMPTS[0]])]
    free = await client.generate(told, temperature=0.0, max_tokens=1)
    again = await client.generate(told, temperature=0.0, max_tokens=1, repetition_penalty=50.0)
    if free.ids == [first]:
        assert again.ids != [first]
    assert again.ids[0] not in (first, *PROMPTS[0])


_SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
    "required": ["ok", "kind"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("kind", "source", "matches"),
    [
        (GrammarKind.REGEX, "[ab]{3}c", lambda t: len(t) == 4 and t[3] == "c"),
        (GrammarKind.CHOICE, '["yes", "no \\"really\\""]', lambda t: t in ("yes", 'no "really"')),
        (GrammarKind.EBNF, 'root ::= ("x" | "y") "z"', lambda t: t in ("xz", "yz")),
        (
            GrammarKind.JSON_SCHEMA,
            json.dumps(_SCHEMA),
            lambda t: json.loads(t).keys() == {"ok", "kind"},
        ),
        (GrammarKind.JSON_OBJECT, "", lambda t: isinstance(json.loads(t), dict)),
        (
            GrammarKind.STRUCTURAL_TAG,
            '{"type":"structural_tag","format":{"type":"const_string","value":"hi"}}',
            lambda t: t == "hi",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, GrammarKind) else "",
)
async def test_the_output_matches_its_grammar(
    client: WorkerClient, kind: GrammarKind, source: str, matches: Any
) -> None:
    bias: dict[int, float] = {}
    if Capability.LOGIT_BIAS in client.hello.capabilities:
        # A model that was not made for JSON may fill an object until its tokens are used up.
        bias = {id_: -100.0 for id_ in blanks()} | {token("{"): 100.0, token("}"): 100.0}
    answer = await client.generate(
        PROMPT, temperature=0.0, max_tokens=120, grammar=Grammar(kind, source), logit_bias=bias
    )
    assert answer.end.reason is FinishReason.STOP, answer.text
    assert matches(answer.text)


@pytest.mark.parametrize("kind", [GrammarKind.JSON_SCHEMA, GrammarKind.STRUCTURAL_TAG], ids=str)
async def test_white_space_in_json_has_an_end(
    client: WorkerClient, model: ModelFiles, kind: GrammarKind
) -> None:
    """Blanks are made as likely as can be: one is all that stands between two items."""
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}
    tag = {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": schema}}
    source = json.dumps(schema if kind is GrammarKind.JSON_SCHEMA else tag)
    answer = await client.generate(
        PROMPT,
        temperature=0.0,
        max_tokens=160,
        grammar=Grammar(kind, source),
        logit_bias={id_: 100.0 for id_ in blanks()},
    )
    assert answer.end.reason is FinishReason.STOP, answer.text
    assert len(json.loads(answer.text)) == 2
    assert re.findall(r"\s+", answer.text) == [" "]


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        (GrammarKind.REGEX, "(ab"),
        (GrammarKind.EBNF, "root ::= nowhere"),
        (GrammarKind.JSON_SCHEMA, "{not json"),
        (GrammarKind.CHOICE, "[]"),
        (GrammarKind.STRUCTURAL_TAG, '{"type": "nothing"}'),
    ],
    ids=lambda value: str(value) if isinstance(value, GrammarKind) else "",
)
async def test_a_grammar_that_cannot_be_compiled_is_refused_before_admission(
    client: WorkerClient, model: ModelFiles, kind: GrammarKind, source: str
) -> None:
    answer = await client.generate(PROMPT, grammar=Grammar(kind, source))
    assert isinstance(answer.end, Failed)
    assert answer.end.kind is FailureKind.INVALID_GRAMMAR
    assert len(answer.events) == 1
    after = await client.generate(PROMPT, temperature=0.0, max_tokens=2)
    assert len(after.ids) == 2


_ASKED: dict[Capability, dict[str, Any]] = {
    Capability.SEED: {"seed": 1},
    Capability.LOGPROBS: {"logprobs": 1},
    Capability.PROMPT_LOGPROBS: {"prompt_logprobs": 1},
    Capability.LOGIT_BIAS: {"logit_bias": {5: 1.0}},
    Capability.MIN_P: {"min_p": 0.1},
    Capability.REPETITION_PENALTY: {"repetition_penalty": 1.1},
    Capability.MIN_TOKENS: {"min_tokens": 2},
}


@pytest.mark.parametrize("capability", list(_ASKED), ids=str)
async def test_what_an_engine_does_not_declare_it_refuses(
    client: WorkerClient, capability: Capability
) -> None:
    answer = await _sample(client, **_ASKED[capability])
    if capability in client.hello.capabilities:
        assert answer.end.reason is FinishReason.LENGTH
    else:
        assert answer.end.kind is FailureKind.UNSUPPORTED
        assert answer.end.param == next(iter(_ASKED[capability]))


@pytest.mark.parametrize(
    "options",
    [{"logit_bias": {5: 1.0}}, {"frequency_penalty": 1.0}, {"presence_penalty": 1.0}],
    ids=str,
)
async def test_logprobs_with_changed_scores_are_the_models_own_or_refused(
    client: WorkerClient, model: ModelFiles, options: dict[str, Any]
) -> None:
    answer = await _sample(client, temperature=0.0, logprobs=0, max_tokens=1, **options)
    if isinstance(answer.end, Failed):
        assert client.hello.engine.startswith("sglang/")
        assert (answer.end.kind, answer.end.param) == (FailureKind.UNSUPPORTED, "logprobs")
        return
    reference = model.references["base", 0]
    assert answer.logprobs[0].logprob == pytest.approx(reference.logprobs[0], abs=1e-3)
