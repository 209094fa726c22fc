"""Chat completions through OpenAI's own client, folded and streamed."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from server.chat.schemas import ChatCompletion
from tests.gateway.conftest import MODEL, Gateway, user

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}


def test_an_answer_has_every_field_the_client_needs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user("say hello"))
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.service_tier == "default"
    assert answer.system_fingerprint.startswith("fp_")
    (choice,) = answer.choices
    assert choice.message.content == "Hello there, friend."
    assert choice.message.role == "assistant"
    assert choice.message.refusal is None
    assert choice.finish_reason == "stop"
    assert answer.usage.completion_tokens == 5
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


def test_the_documented_answer_is_the_answer(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=user("say hello"))
    body = ChatCompletion.model_validate_json(raw.content, strict=True)
    assert body.choices[0].message.content == "Hello there, friend."


def test_response_headers(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=user("say hello"))
    headers = raw.headers
    assert len(headers["x-request-id"]) == len("req_") + 32
    assert headers["openai-processing-ms"].isdigit()
    assert headers["openai-version"] == "2020-10-01"
    assert headers["openai-organization"] == "acme"
    assert headers["openai-project"] == "proj_test"
    assert headers["openai-model"] == MODEL
    assert headers["content-type"] == "application/json"
    assert raw.parse()._request_id == headers["x-request-id"]


def test_a_stream_folds_to_the_same_answer(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=user("say hello"), stream_options={"include_usage": True}
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "Hello there, friend."
    assert final.choices[0].finish_reason == "stop"
    assert final.usage is not None
    assert final.usage.completion_tokens == 5


async def test_the_async_client_streams(gateway: Gateway) -> None:
    async with gateway.async_client() as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=user("say hello"), stream=True
        )
        chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "Hello there, friend."
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks[:-1])


def test_several_answers_have_their_own_index_and_one_prompt(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user("say hello"), n=3)
    single = client.chat.completions.create(model=MODEL, messages=user("say hello"))
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(c.message.content == "Hello there, friend." for c in answer.choices)
    assert answer.usage.prompt_tokens == single.usage.prompt_tokens
    assert answer.usage.completion_tokens == 15


def test_streamed_choices_first_appear_in_order(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=user("say hello"), n=4, stream=True
    )
    indexes = [chunk.choices[0].index for chunk in stream]
    assert list(dict.fromkeys(indexes)) == [0, 1, 2, 3]


def test_reasoning_is_apart_from_content(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user("think first"))
    message = answer.choices[0].message
    assert message.content == "Done thinking."
    assert message.reasoning_content.strip() == "hmm hmm"
    assert message.reasoning == message.reasoning_content
    details = answer.usage.completion_tokens_details
    assert 0 < details.reasoning_tokens < answer.usage.completion_tokens


def test_reasoning_can_be_left_out(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=user("think first"), extra_body={"include_reasoning": False}
    )
    assert answer.choices[0].message.content == "Done thinking."
    assert getattr(answer.choices[0].message, "reasoning_content", None) is None


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls(client: openai.OpenAI, stream: bool) -> None:
    request: dict[str, Any] = {
        "model": MODEL,
        "messages": user("weather tool"),
        "tools": [WEATHER],
    }
    if stream:
        with client.chat.completions.stream(**request) as events:
            choice = events.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**request).choices[0]
    (call,) = choice.message.tool_calls
    assert call.id.startswith("call_")
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content


def test_streamed_tool_calls_name_themselves_once(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=user("two tools"), tools=[WEATHER, TIME], stream=True
    )
    fragments = [call for chunk in stream for call in (chunk.choices[0].delta.tool_calls or [])]
    named = [call for call in fragments if call.id]
    assert [call.index for call in named] == [0, 1]
    assert [call.function.name for call in named] == ["get_weather", "get_time"]
    assert len({call.id for call in named}) == 2
    arguments = "".join(c.function.arguments for c in fragments if c.index == 1)
    assert json.loads(arguments) == {}


def test_tool_calls_without_tools_are_content(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user("weather tool"))
    assert answer.choices[0].message.tool_calls is None
    assert "get_weather" in answer.choices[0].message.content


def asking_functions(function_call: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": user("weather tool"),
        "functions": [WEATHER["function"]],
        "function_call": function_call,
    }


def test_functions_are_answered_with_a_function_call(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**asking_functions("auto")).choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call.name == "get_weather"
    assert json.loads(choice.message.function_call.arguments) == {"city": "Paris"}
    assert choice.message.tool_calls is None


def test_a_streamed_function_call_names_itself_once(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(**asking_functions("auto"), stream=True)
    choices = [chunk.choices[0] for chunk in stream]
    calls = [c.delta.function_call for c in choices if c.delta.function_call is not None]
    assert [call.name for call in calls if call.name] == ["get_weather"]
    assert json.loads("".join(call.arguments or "" for call in calls)) == {"city": "Paris"}
    assert all(choice.delta.tool_calls is None for choice in choices)
    assert choices[-1].finish_reason == "function_call"


@pytest.mark.parametrize("stream", [False, True])
def test_functions_that_must_not_be_called_are_not(client: openai.OpenAI, stream: bool) -> None:
    answer: Any = client.chat.completions.create(**asking_functions("none"), stream=stream)
    if stream:
        choices = [chunk.choices[0] for chunk in answer]
        assert all(choice.delta.function_call is None for choice in choices)
        assert choices[-1].finish_reason == "stop"
    else:
        assert answer.choices[0].message.function_call is None
        assert answer.choices[0].finish_reason == "stop"


def test_logprobs_spell_the_content(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=user("say hello"), logprobs=True, top_logprobs=2
    )
    choice = answer.choices[0]
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content
    assert all(len(token.top_logprobs) == 2 for token in tokens)
    assert bytes(tokens[0].bytes) == b"Hello"


def test_streamed_logprobs_come_with_their_content(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=user("say hello"), logprobs=True, stream=True
    )
    for chunk in stream:
        choice = chunk.choices[0]
        if choice.delta.content:
            assert "".join(t.token for t in choice.logprobs.content) == choice.delta.content


class Person(BaseModel):
    name: str
    age: int


def test_parse_gives_a_typed_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=user("json schema"), response_format=Person
    )
    assert answer.choices[0].message.parsed == Person(name="Ada", age=36)


def test_a_json_object(client: openai.OpenAI) -> None:
    wanted: Any = {"type": "json_object"}
    answer = client.chat.completions.create(
        model=MODEL, messages=user("json object"), response_format=wanted
    )
    assert json.loads(answer.choices[0].message.content) == {"ok": True}


@pytest.mark.parametrize(("thinking", "answer"), [(False, "red"), (True, "blue")])
def test_a_guide_binds_what_follows_the_thinking(
    client: openai.OpenAI, thinking: bool, answer: str
) -> None:
    extra = {
        "guided_choice": ["red", "blue"],
        "chat_template_kwargs": {"enable_thinking": thinking},
    }
    choice = client.chat.completions.create(
        model=MODEL, messages=user("pick one"), extra_body=extra
    ).choices[0]
    assert choice.message.content == answer


def test_later_system_messages_and_users_after_results_are_taken(client: openai.OpenAI) -> None:
    function = {"name": "get_weather", "arguments": "{}"}
    messages: list[Any] = [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": "b"},
        *user("weather?"),
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "21"},
        {"role": "system", "content": "Be brief."},
        *user("say"),
        *user("say hello"),
    ]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert answer.choices[0].message.content == "Hello there, friend."


def test_max_tokens_finishes_with_length(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=user("say hello"), max_completion_tokens=2
    )
    assert answer.choices[0].message.content == "Hello there"
    assert answer.choices[0].finish_reason == "length"


def test_stop_strings_are_cut_off(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user("say hello"), stop=[", fr"])
    assert answer.choices[0].message.content == "Hello there"
    assert answer.choices[0].finish_reason == "stop"


def test_metadata_and_prediction_are_taken(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=user("say hello"),
        metadata={"run": "7"},
        prediction={"type": "content", "content": "Hello"},
        user="someone",
        prompt_cache_key="k",
        service_tier="auto",
        seed=7,
    )
    assert answer.usage.completion_tokens_details.accepted_prediction_tokens == 0
