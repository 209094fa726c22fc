"""Structured outputs on the HF engine: what comes out is valid, whatever the model would say."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workers.contract.messages import FailureKind, FinishReason
from workers.contract.parts import Grammar, GrammarKind

from . import models
from .conftest import WorkerClient, WorkerProcess

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "color": {"enum": ["red", "green"]},
    },
    "required": ["name", "age", "color"],
    "additionalProperties": False,
}
TAG = {
    "type": "structural_tag",
    "format": {
        "type": "triggered_tags",
        "triggers": ["<tool_call>"],
        "tags": [
            {
                "type": "tag",
                "begin": "<tool_call>",
                "content": {"type": "json_schema", "json_schema": SCHEMA},
                "end": "</tool_call>",
            }
        ],
        "at_least_one": True,
        "stop_after_first": True,
    },
}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("grammar")
    process = WorkerProcess(
        folder, backend="hf", model_path=str(models.make_model(folder / "model")), device="cpu"
    )
    yield process
    process.end()


def _no_blanks() -> dict[int, float]:
    """A random model would fill its tokens with the white space that JSON allows."""
    tokenizer = models.tokenizer()
    return {
        token_id: -100.0
        for token_id in range(len(tokenizer))
        if not tokenizer.decode([token_id]).strip()
    }


def schema(value: Any) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(value))


async def test_schema_bound_output_is_valid_beside_free_output(client: WorkerClient) -> None:
    free = [client.start("Ada", max_tokens=40, seed=n) for n in range(3)]
    options: dict[str, Any] = {"max_tokens": 200, "logit_bias": _no_blanks()}
    bound = [client.start("Ada", grammar=schema(SCHEMA), seed=n, **options) for n in range(5)]
    for request in bound:
        answer = await client.finish(request)
        assert answer.end.reason == FinishReason.STOP
        value = json.loads(answer.text)
        assert set(value) == {"name", "age", "color"}
        assert isinstance(value["age"], int)
        assert value["color"] in ("red", "green")
    for request in free:
        await client.finish(request)


async def test_regex_choice_and_ebnf(client: WorkerClient) -> None:
    cases = [
        (GrammarKind.REGEX, r"[0-9]{3}-[a-f]{2}", re.compile(r"[0-9]{3}-[a-f]{2}")),
        (GrammarKind.CHOICE, json.dumps(["yes", "no", 'may"be']), re.compile(r'yes|no|may"be')),
        (GrammarKind.EBNF, 'root ::= "a" ("b" | "c") "ü"', re.compile(r"a[bc]ü")),
    ]
    for kind, source, pattern in cases:
        for seed in range(3):
            grammar = Grammar(kind, source)
            answer = await client.generate("x", grammar=grammar, seed=seed, max_tokens=40)
            assert pattern.fullmatch(answer.text), (kind, answer.text)
            assert answer.end.reason == FinishReason.STOP


async def test_json_object_is_an_object(client: WorkerClient) -> None:
    grammar = Grammar(GrammarKind.JSON_OBJECT, "")
    opening, closing = (models.tokenizer().encode(brace)[0] for brace in "{}")
    bias = {**_no_blanks(), opening: 200.0, closing: 50.0}
    answer = await client.generate("x", grammar=grammar, max_tokens=40, seed=2, logit_bias=bias)
    assert isinstance(json.loads(answer.text), dict)


async def test_structural_tag(client: WorkerClient) -> None:
    grammar = Grammar(GrammarKind.STRUCTURAL_TAG, json.dumps(TAG))
    options: dict[str, Any] = {"max_tokens": 300, "logit_bias": _no_blanks()}
    answer = await client.generate("x", grammar=grammar, seed=1, **options)
    body = re.fullmatch(r"<tool_call>(.*)</tool_call>", answer.text, re.DOTALL)
    assert body is not None
    assert json.loads(body[1])["color"] in ("red", "green")


async def test_the_end_of_the_grammar_ends_an_output_without_end_marks(
    client: WorkerClient,
) -> None:
    grammar = Grammar(GrammarKind.REGEX, "ab{2}")
    answer = await client.generate("x", grammar=grammar, ignore_eos=True, max_tokens=50)
    assert (answer.text, answer.end.reason) == ("abb", FinishReason.STOP)


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        (GrammarKind.JSON_SCHEMA, "{not json"),
        (GrammarKind.JSON_SCHEMA, '{"type": "nonsense"}'),
        (GrammarKind.JSON_SCHEMA, '{"$ref": "#/$defs/missing"}'),
        (GrammarKind.REGEX, "(unclosed"),
        (GrammarKind.CHOICE, "[]"),
        (GrammarKind.CHOICE, '["a", 1]'),
        (GrammarKind.EBNF, "root ::= missing"),
        (GrammarKind.STRUCTURAL_TAG, '{"type": "structural_tag"}'),
    ],
)
async def test_a_grammar_that_cannot_be_compiled_is_refused(
    client: WorkerClient, kind: GrammarKind, source: str
) -> None:
    answer = await client.generate("x", grammar=Grammar(kind, source), max_tokens=5)
    assert len(answer.events) == 1
    assert answer.end.kind == FailureKind.INVALID_GRAMMAR
    assert answer.end.param == "response_format"


async def test_compiling_holds_nobody_up(client: WorkerClient) -> None:
    """A big schema compiles while another request streams."""
    properties = {
        f"field_{n}": {"type": "object", "properties": {f"p{m}": SCHEMA for m in range(10)}}
        for n in range(10)
    }
    running = client.start("x", max_tokens=400, ignore_eos=True)
    await client.queues[running].get()
    big = client.start("x", grammar=schema({"properties": properties}), max_tokens=3)
    loop = asyncio.get_running_loop()
    longest, last = 0.0, loop.time()
    while client.queues[big].empty() and not client.queues[running].empty():
        await client.queues[running].get()
        longest, last = max(longest, loop.time() - last), loop.time()
    assert (await client.finish(big)).end.completion_tokens == 3
    await client.finish(running)
    assert longest < 1.0


def test_models_are_made_with_the_vocabulary_padded(tmp_path: Path) -> None:
    """The masks of this file must cover ids that the tokenizer does not know."""
    config = json.loads((models.make_model(tmp_path / "m") / "config.json").read_text())
    assert config["vocab_size"] > len(models.tokenizer())
