"""Tools and response formats on the bundled model: real engine, real grammars, official client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from deploy.model.questions import GET_WEATHER
from server.config import BUNDLED_MODEL, Config, EngineKind, ModelEntry
from tests.gateway.conftest import MODEL, Worker, start_gateway, user, wait_for

START_DEADLINE_S = 120.0

WEATHER: dict[str, Any] = GET_WEATHER
PAINT: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "paint",
        "description": "Paint a wall.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "colour": {"enum": ["red", "green"]},
                "layers": {"type": "integer", "minimum": 1, "maximum": 3},
            },
            "required": ["colour", "layers"],
            "additionalProperties": False,
        },
    },
}
ASKED = user("What is the weather in Paris?")


def start_hf_worker(folder: Path) -> Worker:
    listen = folder / "engine.sock"
    spec = {
        "model_id": MODEL,
        "model_path": str(BUNDLED_MODEL),
        "backend": "hf",
        "listen": f"unix:{listen}",
        "device": "cpu",
        "max_loras": 0,
    }
    (folder / "engine.json").write_text(json.dumps(spec))
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.engine", "--spec", str(folder / "engine.json")]
    )
    wait_for(lambda: listen.exists() or process.poll() is not None, START_DEADLINE_S)
    return Worker(f"unix:{listen}", process)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    started = start_hf_worker(tmp_path_factory.mktemp("engine"))
    yield started
    started.stop()


@contextmanager
def gateway_client(folder: Path, worker: Worker, template: str | None) -> Iterator[openai.OpenAI]:
    entry = ModelEntry(id=MODEL, path=str(BUNDLED_MODEL), engine=EngineKind.HF, template=template)
    running = start_gateway(Config(data=folder, models=(entry,)), [worker], [MODEL])
    with running.client() as opened:
        yield opened
    running.stop()


@pytest.fixture(scope="module")
def client(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    with gateway_client(tmp_path_factory.mktemp("own"), worker, None) as opened:
        yield opened


@pytest.fixture(scope="module")
def thinking_client(
    worker: Worker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[openai.OpenAI]:
    """The same engine, behind a format whose answers may begin with a thought."""
    with gateway_client(tmp_path_factory.mktemp("thinking"), worker, "qwen3") as opened:
        yield opened


def ask(client: openai.OpenAI, messages: list[Any] = ASKED, **options: Any) -> Any:
    request = {"temperature": 0, "max_completion_tokens": 120, **options}
    return client.chat.completions.create(model=MODEL, messages=messages, **request).choices[0]


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [named(name) for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def arguments(choice: Any) -> list[tuple[str, Any]]:
    calls = choice.message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


def painted(found: Any) -> bool:
    return (
        found.keys() == {"colour", "layers"}
        and found["colour"] in ("red", "green")
        and found["layers"] in (1, 2, 3)
    )


def test_auto_gives_back_the_call_that_the_model_wrote(client: openai.OpenAI) -> None:
    choice = ask(client, tools=[WEATHER])
    assert choice.finish_reason == "tool_calls"
    [(name, found)] = arguments(choice)
    assert name.startswith("get_")
    assert list(found) == ["city"]
    assert choice.message.content is None
    assert choice.message.tool_calls[0].id


def test_none_never_calls(client: openai.OpenAI) -> None:
    choice = ask(client, tools=[WEATHER], tool_choice="none")
    assert choice.message.tool_calls is None
    assert choice.finish_reason in ("stop", "length")


@pytest.mark.parametrize("temperature", [0, 2])
def test_required_calls_with_valid_arguments_whatever_was_said(
    client: openai.OpenAI, temperature: float
) -> None:
    options = {"temperature": temperature, "seed": 5, "max_completion_tokens": 400}
    choice = ask(client, user("Hello!"), tools=[PAINT], tool_choice="required", **options)
    assert choice.finish_reason == "tool_calls"
    for name, found in arguments(choice):
        assert name == "paint"
        assert painted(found)


def test_a_named_tool_is_called_once_and_stops(client: openai.OpenAI) -> None:
    choice = ask(client, tools=[WEATHER, PAINT], tool_choice=named("paint"))
    assert choice.finish_reason == "stop"
    [(name, found)] = arguments(choice)
    assert name == "paint"
    assert painted(found)


def test_only_allowed_tools_are_called(client: openai.OpenAI) -> None:
    choice = ask(client, tools=[WEATHER, PAINT], tool_choice=allowed("required", "paint"))
    assert {name for name, _ in arguments(choice)} == {"paint"}
    choice = ask(client, tools=[WEATHER, PAINT], tool_choice=allowed("auto", "paint"))
    assert {name for name, _ in arguments(choice)} <= {"paint"}


def test_at_most_one_call_where_they_may_not_be_parallel(client: openai.OpenAI) -> None:
    both = user("What is the weather in Paris? What is the weather in London?")
    options = {"tools": [WEATHER], "parallel_tool_calls": False}
    assert len(arguments(ask(client, both, **options))) <= 1
    assert len(arguments(ask(client, both, **options, tool_choice="required"))) == 1


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_streamed_call_is_assembled_by_the_sdk(
    client: openai.OpenAI, choice: Literal["auto", "required"]
) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": ASKED,
        "tools": [WEATHER],
        "tool_choice": choice,
        "temperature": 0,
    }
    pieces: list[str] = []
    with client.chat.completions.stream(**asked) as stream:
        for event in stream:
            if event.type == "tool_calls.function.arguments.delta":
                pieces.append(event.arguments_delta)
        final = stream.get_final_completion().choices[0]
    whole = client.chat.completions.create(**asked).choices[0]
    assert "".join(pieces) == final.message.tool_calls[0].function.arguments
    assert len(pieces) > 1
    assert arguments(final) == arguments(whole)
    assert final.finish_reason == whole.finish_reason == "tool_calls"


@pytest.mark.parametrize("sky", ["sunny", "rainy"])
def test_a_result_is_fed_back(client: openai.OpenAI, sky: str) -> None:
    choice = ask(client, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
    call = choice.message
    result = {
        "role": "tool",
        "tool_call_id": call.tool_calls[0].id,
        "content": json.dumps({"temperature": 21, "condition": sky}),
    }
    choice = ask(client, [*ASKED, call, result], tools=[WEATHER])
    assert sky in choice.message.content
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"


class Person(BaseModel):
    name: Literal["Ada", "Bob"]
    age: Literal[1, 2, 3]


def test_a_schema_is_parsed_into_its_class(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=user("Who are you?"), response_format=Person, temperature=1, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_with_tools_and_a_schema_the_answer_is_a_call_or_the_schema(client: openai.OpenAI) -> None:
    schema = {"name": "p", "strict": True, "schema": Person.model_json_schema()}
    options = {"response_format": {"type": "json_schema", "json_schema": schema}}
    called = ask(client, tools=[WEATHER], **options)
    if called.message.tool_calls is None:
        Person.model_validate_json(called.message.content)
    else:
        assert arguments(called)[0][0] == "get_weather"
    told = ask(client, tools=[WEATHER], tool_choice="none", **options)
    Person.model_validate_json(told.message.content)
    forced = ask(client, tools=[WEATHER], tool_choice="required", **options)
    assert arguments(forced)[0][0] == "get_weather"


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}
            | {"guided_regex": "a"},
            "guided_regex",
            "invalid_value",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "strng"}},
                }
            },
            "response_format",
            "invalid_json_schema",
        ),
        ({"guided_regex": "(a"}, "guided_regex", "invalid_value"),
        ({"guided_grammar": "root ::= nothing"}, "guided_grammar", "invalid_value"),
        (
            {"tools": [PAINT | {"function": PAINT["function"] | {"parameters": {
                "type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}}}]},
            "tools",
            "invalid_value",
        ),
    ],
)  # fmt: skip
def test_a_constraint_that_does_not_compile_is_named(
    client: openai.OpenAI, options: dict[str, Any], param: str, code: str
) -> None:
    extra = {name: options.pop(name) for name in list(options) if name.startswith("guided")}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **options, extra_body=extra)
    assert (caught.value.param, caught.value.code) == (param, code)


GUIDES: list[tuple[dict[str, Any], Any]] = [
    ({"guided_choice": ["red", "green"]}, lambda text: text in ("red", "green")),
    ({"guided_regex": "[ab]{3}"}, lambda text: len(text) == 3 and set(text) <= set("ab")),
    ({"guided_json": Person.model_json_schema()}, Person.model_validate_json),
    ({"guided_grammar": 'root ::= "yes" | "no"'}, lambda text: text in ("yes", "no")),
]


@pytest.mark.parametrize(("guide", "matches"), GUIDES)
def test_guides_bind_the_answer(client: openai.OpenAI, guide: dict[str, Any], matches: Any) -> None:
    choice = ask(client, user("Hello!"), extra_body=guide, max_completion_tokens=1000)
    assert choice.finish_reason == "stop"
    assert matches(choice.message.content)


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize(("guide", "matches"), GUIDES)
def test_guides_bind_the_answer_of_a_thinking_format(
    thinking_client: openai.OpenAI, guide: dict[str, Any], matches: Any, thinking: bool
) -> None:
    extra = {**guide, "chat_template_kwargs": {"enable_thinking": thinking}}
    limit = {"max_completion_tokens": 1000}
    message = ask(thinking_client, user("Hello!"), extra_body=extra, **limit).message
    assert matches(message.content)


@pytest.mark.parametrize("answers", [{}, {"guided_choice": ["red", "blue"]}])
def test_a_real_engine_goes_on_behind_a_thought_that_is_cut(
    thinking_client: openai.OpenAI, answers: dict[str, Any]
) -> None:
    """A thought that the prompt has begun is all the bundled model goes on with."""
    begun = {"role": "assistant", "content": "", "reasoning_content": "Let me think: 1, 2, 3,"}
    request: dict[str, Any] = {
        "model": MODEL,
        "messages": [*user("Count."), begun],
        "temperature": 0,
        "max_completion_tokens": 40,
    }
    extra = {"continue_final_message": True, "thinking_budget": 6, **answers}
    answer = thinking_client.chat.completions.create(**request, extra_body=extra)
    (choice,) = answer.choices
    assert answer.usage.completion_tokens_details.reasoning_tokens == 6
    assert choice.message.reasoning_content
    assert choice.message.content
    assert not answers or choice.message.content in answers["guided_choice"]
    assert answer.usage.completion_tokens <= 40
