"""Grammars made to hurt: refused before an engine sees them, or by it, while others get answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psutil
import pytest

from server.config import BUNDLED_MODEL, Limits
from server.generation.schema_limits import (
    MAX_CHOICE_CHARACTERS,
    MAX_CHOICES,
    MAX_DEPTH,
    MAX_EBNF_CHARACTERS,
    MAX_ENUM_VALUES,
    MAX_NAMED_CHARACTERS,
    MAX_PROPERTIES,
    MAX_REGEX_CHARACTERS,
    MAX_SOURCE_CHARACTERS,
)
from tests.engine.conftest import GUARD_S, WorkerClient, WorkerProcess
from tests.gateway.conftest import (
    MODEL,
    REPLIES,
    Gateway,
    make_config,
    start_gateway,
    start_worker,
    user,
)
from tests.gateway.raw import post, refusal
from workers.contract.messages import FailureKind, FinishReason
from workers.contract.parts import Grammar, GrammarKind
from workers.engine.grammar_checks import NUM_LONG


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    worker = start_worker(folder, "engine", REPLIES)
    limits = Limits(max_body_bytes=8_000_000)
    running = start_gateway(make_config(folder, limits=limits), [worker], [MODEL])
    yield running
    running.stop()
    worker.stop()


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def listed(depth: int) -> str:
    """As text: nobody's parser of bodies has seen it."""
    return '{"items":' * depth + "{}" + "}" * depth


TOO_LARGE: list[tuple[Any, str]] = [
    (nested(MAX_DEPTH // 2 + 1), "deep"),
    (
        {
            "type": "object",
            "properties": {f"p{n}": {"type": "null"} for n in range(MAX_PROPERTIES + 1)},
        },
        "properties",
    ),
    (
        {
            "type": "object",
            "properties": {
                name: {"enum": [f"{name}{n}" for n in range(MAX_ENUM_VALUES // 2 + 1)]}
                for name in "ab"
            },
        },
        "enum values",
    ),
    (
        {"type": "object", "properties": {"p": {"const": "x" * (MAX_NAMED_CHARACTERS + 1)}}},
        "characters",
    ),
]
IDS = [reason for _, reason in TOO_LARGE]


@pytest.mark.parametrize(("schema", "reason"), TOO_LARGE, ids=IDS)
def test_a_schema_that_is_too_large(gateway: Gateway, schema: Any, reason: str) -> None:
    body: dict[str, Any] = {"model": MODEL, "messages": user("x")}

    def ask(**fields: Any) -> tuple[int, str | None, str | None]:
        refused = refusal(gateway, "/v1/chat/completions", body | fields)
        assert reason in refused.message
        return refused.status, refused.code, refused.param

    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert ask(response_format=form) == (400, "invalid_json_schema", "response_format")
    assert ask(tools=[tool]) == (
        400,
        "invalid_function_parameters",
        "tools[0].function.parameters",
    )
    for given in (schema, json.dumps(schema)):
        assert ask(guided_json=given) == (400, "invalid_json_schema", "guided_json")
        asked = ask(structured_outputs={"json": given})
        assert asked == (400, "invalid_json_schema", "structured_outputs.json")


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 2000, 50_000])
def test_a_schema_as_text_may_be_nested_to_any_depth(gateway: Gateway, depth: int) -> None:
    body = {"model": MODEL, "prompt": "x", "guided_json": listed(depth)}
    refused = refusal(gateway, "/v1/completions", body)
    assert (refused.status, refused.code, refused.param) == (
        400,
        "invalid_json_schema",
        "guided_json",
    )


TEXTS: list[tuple[str, Any, str]] = [
    ("guided_json", "{not json", "invalid_value"),
    ("guided_json", " " * (MAX_SOURCE_CHARACTERS + 1), "string_above_max_length"),
    ("guided_regex", "a" * (MAX_REGEX_CHARACTERS + 1), "string_above_max_length"),
    ("guided_grammar", "a" * (MAX_EBNF_CHARACTERS + 1), "string_above_max_length"),
    ("guided_choice", [f"c{n}" for n in range(MAX_CHOICES + 1)], "array_above_max_length"),
    ("guided_choice", ["a" * MAX_CHOICE_CHARACTERS, "b"], "invalid_value"),
]


@pytest.mark.parametrize(("field", "value", "code"), TEXTS, ids=[f"{f}-{c}" for f, _, c in TEXTS])
def test_a_grammar_of_another_kind_that_is_too_large(
    gateway: Gateway, field: str, value: Any, code: str
) -> None:
    inner = field.removeprefix("guided_")
    for fields, param in (
        ({field: value}, field),
        ({"structured_outputs": {inner: value}}, f"structured_outputs.{inner}"),
    ):
        body = {"model": MODEL, "messages": user("x"), **fields}
        refused = refusal(gateway, "/v1/chat/completions", body)
        assert (refused.status, refused.code, refused.param) == (400, code, param)


def test_what_openai_takes_is_taken(gateway: Gateway) -> None:
    """Ten levels of objects, each within a list, and a thousand enum values."""
    schema: dict[str, Any] = {"enum": [f"v{n}" for n in range(MAX_ENUM_VALUES)]}
    for _ in range(10):
        listed_ones = {"type": "array", "items": schema}
        schema = {
            "type": "object",
            "properties": {"a": {"anyOf": [listed_ones, {"type": "null"}]}},
            "required": ["a"],
            "additionalProperties": False,
        }
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}}
    body = {"model": MODEL, "messages": user("x"), "tools": [tool]}
    assert post(gateway, "/v1/chat/completions", body).status_code == 200


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("hostile")
    process = WorkerProcess(folder, backend="hf", model_path=str(BUNDLED_MODEL), device="cpu")
    yield process
    process.end()


@pytest.fixture
async def client(worker: WorkerProcess) -> AsyncIterator[WorkerClient]:
    client = await worker.client()
    yield client
    await client.close()


def endless(number: int) -> Grammar:
    """It takes a compiler minutes."""
    return Grammar(GrammarKind.REGEX, f"(.{{1,{1000 + number}}}){{1,1000}}")


def ordinary(number: int) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps({"enum": [f"answer {number}"]}))


def optional_properties(count: int) -> Grammar:
    properties = {f"p{n}": {"type": "integer"} for n in range(count)}
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps({"properties": properties}))


async def test_others_get_their_answers_while_three_compile(client: WorkerClient) -> None:
    await client.generate("x", grammar=ordinary(0), max_tokens=9)
    hostile = [client.start("x", grammar=endless(n)) for n in range(3)]
    others = [client.start("x", grammar=ordinary(n), max_tokens=30) for n in range(1, 11)]
    for request in others:
        assert (await client.finish(request)).end.reason == FinishReason.STOP
    assert not set(hostile) & set(client.ended)
    for request in hostile:
        refused = (await client.finish(request)).end
        assert (refused.kind, refused.param) == (FailureKind.INVALID_GRAMMAR, "response_format")
        assert "seconds" in refused.message


async def test_what_was_refused_once_is_refused_at_once(client: WorkerClient) -> None:
    await client.generate("x", grammar=endless(0))
    first, again = client.start("x", grammar=endless(10)), client.start("x", grammar=endless(0))
    assert (await client.finish(again)).end.kind == FailureKind.INVALID_GRAMMAR
    assert first not in client.ended
    await client.abort(first)


async def test_a_caller_who_hangs_up_frees_the_place(
    client: WorkerClient, worker: WorkerProcess
) -> None:
    hostile = [client.start("x", grammar=endless(20 + n)) for n in range(NUM_LONG + 4)]
    async with asyncio.timeout(GUARD_S):
        while len(trials(worker)) < NUM_LONG:
            await asyncio.sleep(0.02)
    await client.abort(*hostile)
    async with asyncio.timeout(GUARD_S):
        while trials(worker):
            await asyncio.sleep(0.02)
    assert (await client.generate("x", grammar=ordinary(99), max_tokens=30)).text == '"answer 99"'


def trials(worker: WorkerProcess) -> list[psutil.Process]:
    """The processes in which grammars are tried."""
    programs = psutil.Process(worker.process.pid).children()
    return [
        trial
        for program in programs
        for trial in program.children()
        if trial.status() != psutil.STATUS_ZOMBIE
    ]


async def test_a_trial_program_that_was_killed_is_started_again(
    client: WorkerClient, worker: WorkerProcess
) -> None:
    await client.generate("x", grammar=ordinary(200), max_tokens=30)
    (program,) = psutil.Process(worker.process.pid).children()
    program.kill()
    assert (await client.generate("x", grammar=ordinary(201), max_tokens=30)).text == '"answer 201"'


HOSTILE: list[tuple[str, Grammar]] = [
    ("nested repetitions", Grammar(GrammarKind.REGEX, "(([a-z]{1,50}){1,50}){1,50}")),
    ("thousands of optional properties", optional_properties(4000)),
    (
        "a slow mask",
        Grammar(GrammarKind.EBNF, 'root ::= ((("a" | "b"){1,1000}){1,1000}){1,1000}'),
    ),
    (
        "thousands of parts that may be empty",
        Grammar(
            GrammarKind.EBNF,
            f"root ::= {' '.join(f'r{n}?' for n in range(3000))}\n"
            + "\n".join(f'r{n} ::= "a{n}" | "b"' for n in range(3000)),
        ),
    ),
    (
        "as many choices as a body holds",
        Grammar(GrammarKind.CHOICE, json.dumps([f"choice number {n}" for n in range(200_000)])),
    ),
    ("a deep schema", Grammar(GrammarKind.JSON_SCHEMA, listed(5000))),
    ("a reference to itself", Grammar(GrammarKind.JSON_SCHEMA, '{"$ref": "#"}')),
    (
        "references in a ring",
        Grammar(
            GrammarKind.JSON_SCHEMA,
            '{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, '
            '"b": {"$ref": "#/$defs/a"}}}',
        ),
    ),
    (
        "a count beyond integers",
        Grammar(GrammarKind.JSON_SCHEMA, f'{{"type": "string", "maxLength": {10**30}}}'),
    ),
    ("a tag that is no tag", Grammar(GrammarKind.STRUCTURAL_TAG, "[" * 50_000)),
]


@pytest.mark.parametrize(("name", "grammar"), HOSTILE, ids=[name for name, _ in HOSTILE])
async def test_a_hostile_grammar_is_refused_and_costs_the_engine_nothing(
    client: WorkerClient, name: str, grammar: Grammar
) -> None:
    running = client.start("x", max_tokens=4, ignore_eos=True)
    answer = await client.generate("x", grammar=grammar, max_tokens=4)
    assert answer.end.kind == FailureKind.INVALID_GRAMMAR, name
    assert (await client.finish(running)).end.completion_tokens == 4


async def test_the_most_choices_that_are_taken_are_answered(client: WorkerClient) -> None:
    choices = [f"choice number {n}" for n in range(MAX_CHOICES)]
    grammar = Grammar(GrammarKind.CHOICE, json.dumps(choices))
    answer = await client.generate("x", grammar=grammar, max_tokens=30)
    assert answer.text in choices


async def test_a_number_of_answers_under_one_grammar_is_one_trial(
    client: WorkerClient, worker: WorkerProcess
) -> None:
    await client.generate("x", grammar=ordinary(300), max_tokens=30)
    requests = [client.start("x", grammar=endless(40), max_tokens=4) for _ in range(64)]
    async with asyncio.timeout(GUARD_S):
        while not trials(worker):
            await asyncio.sleep(0.02)
    assert len(trials(worker)) == 1
    await client.abort(*requests)
