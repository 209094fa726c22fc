"""What clients do beside the plain case: they send back what an SDK gave them, ask for JSON without
saying so, cut emoji in half, and chat with a model that has no chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from server.config import Config, EngineKind, ModelEntry
from tests.gateway.conftest import MODEL, REPLIES, Gateway, start_gateway, start_worker, user
from tests.gateway.raw import refusal

CHAT = "/v1/chat/completions"
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Person(BaseModel):
    name: str
    age: int


def go_on(client: openai.OpenAI, *said: Any) -> str | None:
    messages: Any = [*user("say hello"), *said, *user("say hello")]
    answer = client.chat.completions.create(model=MODEL, messages=messages)
    return answer.choices[0].message.content


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
def test_a_parsed_answer_can_be_sent_back(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=user("json schema"), response_format=Person
    )
    message = answer.choices[0].message
    assert message.parsed == Person(name="Ada", age=36)
    assert go_on(client, message) == "Hello there, friend."
    assert go_on(client, message.model_dump()) == "Hello there, friend."
    assert go_on(client, message.model_dump(exclude_none=True)) == "Hello there, friend."


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize("streamed", [False, True])
def test_a_parsed_call_can_be_sent_back(client: openai.OpenAI, streamed: bool) -> None:
    asked: Any = {"model": MODEL, "messages": user("weather tool"), "tools": [TOOL]}
    if streamed:
        with client.chat.completions.stream(**asked) as stream:
            message = stream.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.parse(**asked).choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.function.parsed_arguments == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    for sent in (message, message.model_dump(), message.to_dict()):
        assert go_on(client, sent, result) == "Hello there, friend."


def test_null_and_empty_fields_are_none(client: openai.OpenAI) -> None:
    said = {
        "role": "assistant",
        "content": "Hi.",
        "refusal": None,
        "audio": None,
        "function_call": None,
        "tool_calls": [],
        "annotations": [],
        "reasoning_content": "",
        "parsed": None,
        "name": None,
    }
    assert go_on(client, said) == "Hello there, friend."
    said |= {"content": [], "tool_calls": None, "annotations": None}
    assert go_on(client, said) == "Hello there, friend."


def test_a_json_object_needs_no_word_for_it(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=user("an object, please"),
        response_format={"type": "json_object"},
    )
    assert answer.choices[0].message.content == '{"ok": true}'
    assert answer.choices[0].finish_reason == "stop"


def test_half_an_emoji_in_arguments_reaches_the_engine(client: openai.OpenAI) -> None:
    for written in ('{"city": "\\ud83d"}', '{"\\udc00": ["\\uDBFF", {"a": "\\ud83d\\ude00"}]}'):
        call = {
            "id": "call_1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": written},
        }
        said = {"role": "assistant", "content": None, "tool_calls": [call]}
        result = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
        assert go_on(client, said, result) == "Hello there, friend."


DEEP = '{"items": ' * 2000 + "{}" + "}" * 2000


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"guided_json": DEEP}, "guided_json", "invalid_json_schema"),
        ({"structured_outputs": {"json": DEEP}}, "structured_outputs.json", "invalid_json_schema"),
        (
            {"structured_outputs": {"structural_tag": DEEP}},
            "structured_outputs.structural_tag",
            "invalid_value",
        ),
        ({"guided_json": '{"const": "\\ud83d"}'}, "guided_json", "invalid_value"),
        ({"guided_json": '{"maximum": ' + "9" * 5000 + "}"}, "guided_json", "invalid_value"),
        ({"guided_json": "[]"}, "guided_json", "invalid_value"),
        (
            {"structured_outputs": {"structural_tag": "x"}},
            "structured_outputs.structural_tag",
            "invalid_value",
        ),
    ],
)
def test_json_in_a_text_has_the_limits_of_a_body(
    gateway: Gateway, fields: dict[str, Any], param: str, code: str
) -> None:
    for path, prompt in ((CHAT, {"messages": user("x")}), ("/v1/completions", {"prompt": "x"})):
        refused = refusal(gateway, path, {"model": MODEL, **prompt, **fields})
        assert (refused.status, refused.code, refused.param) == (400, code, param)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"model": MODEL, "messages": user("?")}),
        (CHAT, {"model": MODEL, "messages": user("x"), "user": "?"}),
        (CHAT, {"model": MODEL, "messages": user("x"), "metadata": {"?": "x"}}),
        (CHAT, {"model": MODEL, "messages": user("x"), "tools": [{"?": 1}]}),
        ("/v1/completions", {"model": MODEL, "prompt": "?"}),
        ("/v1/embeddings", {"model": MODEL, "input": ["?"]}),
        ("/v1/score/evaluation", {"model": MODEL, "messages": ["?"]}),
        ("/v1/fine_tuning/jobs", {"model": MODEL, "training_file": "?"}),
        ("/v1/uploads", {"filename": "?"}),
    ],
)
@pytest.mark.parametrize("half", ["\\ud83d", "\\uDE00", "\\ud83d\\ud83d"])
def test_half_a_character_in_a_body_is_told_by_name(
    gateway: Gateway, path: str, body: dict[str, Any], half: str
) -> None:
    refused = refusal(gateway, path, json.dumps(body).replace("?", half).encode())
    assert (refused.status, refused.code) == (400, "invalid_json")
    assert "half of a surrogate pair" in refused.message


def test_arguments_nested_too_deep_are_named(gateway: Gateway) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": DEEP}}
    messages = [
        *user("x"),
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    refused = refusal(gateway, CHAT, {"model": MODEL, "messages": messages})
    assert refused.param == "messages[1].tool_calls[0].function.arguments"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose model has no chat template."""
    folder = tmp_path_factory.mktemp("bare")
    worker = start_worker(folder, "engine", REPLIES)
    entry = ModelEntry(id=MODEL, path="/nowhere", engine=EngineKind.SCRIPTED)
    running = start_gateway(Config(data=folder / "data", models=(entry,)), [worker], [MODEL])
    yield running
    running.stop()
    worker.stop()


def test_a_model_without_a_chat_template_says_so(bare: Gateway) -> None:
    refused = refusal(bare, CHAT, {"model": MODEL, "messages": user("say hello")})
    assert (refused.status, refused.code) == (400, "model_not_supported")
    assert refused.param == "model"
    assert "no chat template" in refused.message
    assert "'template'" in refused.message
    with bare.client() as client:
        assert client.completions.create(model=MODEL, prompt="say hello").choices[0].text


def test_the_operator_is_warned_of_a_model_that_cannot_chat(bare: Gateway) -> None:
    (warning,) = httpx.get(f"{bare.url}/readyz").json()["warnings"]
    assert warning.startswith(f"{MODEL}: the model has no chat template")
    assert "`template`" in warning


def test_a_model_with_a_template_is_not_warned_of(gateway: Gateway) -> None:
    assert "chat template" not in json.dumps(httpx.get(f"{gateway.url}/readyz").json())
