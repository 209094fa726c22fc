"""Answers that are bound on the bundled model, which does not think though its vocabulary could:
always inside the constraint, and whole within their tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.gateway.conftest import MODEL, Worker, user
from tests.gateway.test_tools_real import gateway_client, named, start_hf_worker

PROMPTS = (
    "Is Paris in France?",
    "Is the sky green?",
    "What is the weather in Paris?",
    "Tell me a story about a fox.",
    "2 + 2?",
    "Think step by step: is 7 prime?",
    "<think>",
    "Name a colour.",
    "Hello!",
    "Answer with JSON.",
)
VERDICT: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "sure": {"enum": ["low", "high"]}},
    "required": ["ok", "sure"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "judge", "parameters": VERDICT, "strict": True}}
FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "verdict", "strict": True, "schema": VERDICT},
}
SAMPLED: tuple[dict[str, Any], ...] = ({"temperature": 0}, {"seed": 1})


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    started = start_hf_worker(tmp_path_factory.mktemp("engine"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def client(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    with gateway_client(tmp_path_factory.mktemp("own"), worker, None) as opened:
        yield opened


def ask(client: openai.OpenAI, prompt: str, **options: Any) -> Any:
    request: dict[str, Any] = {"max_completion_tokens": 100, **options}
    answer = client.chat.completions.create(model=MODEL, messages=user(prompt), **request)
    return answer.choices[0]


def is_verdict(text: str) -> bool:
    found = json.loads(text)
    return (
        found.keys() == {"ok", "sure"}
        and isinstance(found["ok"], bool)
        and found["sure"] in ("low", "high")
    )


@pytest.mark.parametrize("sampled", SAMPLED)
@pytest.mark.parametrize("extra", [{}, {"enable_thinking": False}])
def test_a_choice_is_always_one_of_them(
    client: openai.OpenAI, sampled: dict[str, Any], extra: dict[str, Any]
) -> None:
    for prompt in PROMPTS:
        body = {"guided_choice": ["yes", "no"], **extra}
        choice = ask(client, prompt, extra_body=body, **sampled)
        assert choice.message.content in ("yes", "no")
        assert choice.finish_reason == "stop"


@pytest.mark.parametrize("sampled", SAMPLED)
def test_a_regex_is_always_matched(client: openai.OpenAI, sampled: dict[str, Any]) -> None:
    for prompt in PROMPTS:
        choice = ask(client, prompt, extra_body={"guided_regex": r"[a-z]{3}-[0-9]{2}"}, **sampled)
        assert re.fullmatch(r"[a-z]{3}-[0-9]{2}", choice.message.content)


@pytest.mark.parametrize("sampled", SAMPLED)
def test_a_response_format_is_always_kept(client: openai.OpenAI, sampled: dict[str, Any]) -> None:
    for prompt in PROMPTS:
        choice = ask(client, prompt, response_format=FORMAT, **sampled)
        assert is_verdict(choice.message.content)


@pytest.mark.parametrize("sampled", SAMPLED)
def test_a_required_tool_is_always_called(client: openai.OpenAI, sampled: dict[str, Any]) -> None:
    for prompt in PROMPTS:
        for chosen in ("required", named("judge")):
            choice = ask(client, prompt, tools=[TOOL], tool_choice=chosen, **sampled)
            calls = choice.message.tool_calls
            assert calls
            assert all(is_verdict(call.function.arguments) for call in calls)


@pytest.mark.parametrize("sampled", SAMPLED)
def test_beside_a_response_format_a_tool_is_called_or_the_format_kept(
    client: openai.OpenAI, sampled: dict[str, Any]
) -> None:
    for prompt in PROMPTS:
        choice = ask(client, prompt, tools=[TOOL], response_format=FORMAT, **sampled)
        said = [call.function.arguments for call in choice.message.tool_calls or []]
        said = said or [choice.message.content]
        assert all(is_verdict(text) for text in said)


TEXT = {"type": "string", "maxLength": 12}
NUMBER = {"type": "integer", "minimum": 0, "maximum": 99}


def small_schemas() -> list[dict[str, Any]]:
    """Objects of up to four properties, lists in some and objects in others."""
    values: list[dict[str, Any]] = [
        TEXT,
        NUMBER,
        {"type": "boolean"},
        {"enum": ["red", "green", None]},
        {"type": "array", "items": NUMBER, "maxItems": 3},
        {"type": "string", "pattern": "^[a-z]{1,8}$"},
    ]
    schemas: list[dict[str, Any]] = []
    for number in range(30):
        kept = [values[(number + step) % len(values)] for step in range(1 + number % 4)]
        properties: dict[str, Any] = {f"p{n}": value for n, value in enumerate(kept)}
        if number % 5 == 0:
            properties["inner"] = {**VERDICT}
        schemas.append(
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        )
    return schemas


def blanks_outside_strings(text: str) -> list[str]:
    bare = re.sub(r'"(?:[^"\\]|\\.)*(?:"|$)', '""', text)  # the last may be cut
    return re.findall(r"\s+", re.sub(r"(?<=[:,]) (?=\S)", "", bare))


@pytest.mark.parametrize("sampled", SAMPLED)
def test_thirty_small_schemas_end_within_their_tokens(
    client: openai.OpenAI, sampled: dict[str, Any]
) -> None:
    for number, schema in enumerate(small_schemas()):
        form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
        asked = {"response_format": form, "max_completion_tokens": 160, **sampled}
        choice = ask(client, PROMPTS[number % 10], **asked)
        assert choice.finish_reason == "stop", (schema, choice.message.content)
        assert list(json.loads(choice.message.content)) == schema["required"]
        assert blanks_outside_strings(choice.message.content) == []


def test_an_object_of_any_kind_has_no_run_of_blanks(client: openai.OpenAI) -> None:
    for prompt in PROMPTS:
        for sampled in SAMPLED:
            choice = ask(
                client,
                f"{prompt} Say it in json.",
                response_format={"type": "json_object"},
                max_completion_tokens=60,
                **sampled,
            )
            assert blanks_outside_strings(choice.message.content.rstrip()) == []
