"""Creating responses with the official client: every answer is checked against its types."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from tests.gateway.conftest import MODEL, Gateway
from tests.responses.conftest import TIME, WEATHER

CONTEXT = 32_768
"""Tokens, of the scripted engine."""
ALWAYS_THERE = {
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model"),
    *("previous_response_id", "instructions", "output", "error", "tools", "tool_choice"),
    *("truncation", "parallel_tool_calls", "text", "top_p", "presence_penalty"),
    *("frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage"),
    *("max_output_tokens", "max_tool_calls", "store", "background", "service_tier"),
    *("metadata", "safety_identifier", "prompt_cache_key"),
}
"""What Open Responses requires of the object."""


def create(client: openai.OpenAI, given: Any, **fields: Any) -> Response:
    return client.responses.create(model=MODEL, input=given, **fields)


def kinds(response: Response) -> list[str]:
    return [item.type for item in response.output]


def chat_tokens(client: openai.OpenAI, messages: list[Any], **fields: Any) -> int:
    """Of a chat's prompt: the same conversation must count the same."""
    answer = client.chat.completions.create(model=MODEL, messages=messages, **fields)
    assert answer.usage is not None
    return answer.usage.prompt_tokens


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_a_text_is_answered(client: openai.OpenAI) -> None:
    response = create(client, "say hello", metadata={"k": "v"}, user="u", temperature=0.5)
    assert response.output_text == "Hello there, friend."
    assert (response.status, response.model, response.error) == ("completed", MODEL, None)
    assert response.completed_at is not None
    assert kinds(response) == ["message"]
    assert response.output[0].status == "completed"
    assert response.usage is not None
    assert response.usage.output_tokens == 5
    assert response.usage.input_tokens == chat_tokens(client, [user("say hello")])
    assert response.usage.total_tokens == response.usage.input_tokens + 5
    assert response.metadata == {"k": "v"}
    assert response.temperature == 0.5
    assert response.store is True


def test_every_required_field_is_there(raw: httpx.Client) -> None:
    answer = raw.post("/responses", json={"model": MODEL, "input": "say hello"})
    body = answer.json()
    assert set(body) >= ALWAYS_THERE
    assert body["usage"]["input_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": 0}
    assert body["text"] == {"format": {"type": "text"}, "verbosity": "medium"}
    assert answer.headers["openai-model"] == MODEL


def test_an_answer_of_nothing_is_an_empty_message(client: openai.OpenAI) -> None:
    response = create(client, "say nothing")
    assert (kinds(response), response.output_text) == (["message"], "")


def test_an_empty_text_is_a_message(client: openai.OpenAI) -> None:
    response = create(client, "", instructions="say hello")
    assert response.output_text == "Hello there, friend."
    assert response.usage is not None
    system = {"role": "system", "content": "say hello"}
    assert response.usage.input_tokens == chat_tokens(client, [system, user("")])


def test_items_and_instructions_are_the_conversation_that_chat_has(client: openai.OpenAI) -> None:
    response = create(
        client,
        [
            {"type": "message", "role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Yes?", "annotations": []}],
            },
            {"role": "assistant", "content": "Well?"},
            user("say hello"),
        ],
        instructions="Be kind.",
    )
    assert response.output_text == "Hello there, friend."
    assert response.usage is not None
    assert response.usage.input_tokens == chat_tokens(
        client,
        [
            {"role": "system", "content": "Be kind."},
            {"role": "developer", "content": "Be brief."},
            user("Hi"),
            {"role": "assistant", "content": "Yes?"},
            {"role": "assistant", "content": "Well?"},
            user("say hello"),
        ],
    )


def test_a_function_is_called_and_its_output_taken(client: openai.OpenAI) -> None:
    first = create(client, "weather", tools=[WEATHER])
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("get_weather", '{"city": "Paris"}')
    assert (call.call_id[:5], call.status) == ("call_", "completed")
    history: list[Any] = [user("weather"), *first.output]
    history.append(
        {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
    )
    second = create(client, history, tools=[WEATHER], store=False)
    assert second.output_text == "It is sunny in Paris."
    function = {key: WEATHER[key] for key in ("name", "description", "parameters", "strict")}
    called = {
        "id": call.call_id,
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
    }
    assert second.usage is not None
    assert second.usage.input_tokens == chat_tokens(
        client,
        [
            user("weather"),
            {"role": "assistant", "tool_calls": [called]},
            {"role": "tool", "tool_call_id": call.call_id, "content": "21 degrees"},
        ],
        tools=[{"type": "function", "function": function}],
    )


def test_parallel_calls_are_items_of_their_own(client: openai.OpenAI) -> None:
    response = create(client, "two tools", tools=[WEATHER, TIME])
    calls = [item for item in response.output if item.type == "function_call"]
    assert [(call.name, call.arguments) for call in calls] == [
        ("get_weather", '{"city": "Paris"}'),
        ("get_time", '{"city": "Rome"}'),
    ]
    assert len({call.id for call in calls} | {call.call_id for call in calls}) == 4
    outputs: list[Any] = [
        {"type": "function_call_output", "call_id": call.call_id, "output": text}
        for call, text in zip(reversed(calls), ["noon", "21 degrees"], strict=True)
    ]
    answer = create(client, [user("two tools"), *response.output, *outputs], tools=[WEATHER, TIME])
    assert answer.output_text == "It is sunny in Paris."


def test_tools_are_shown_as_they_are_bound(client: openai.OpenAI) -> None:
    loose = {"type": "function", "name": "f", "parameters": {"type": "object", "not": {}}}
    plain = {"type": "function", "name": "g", "parameters": {"type": "object"}}
    response = create(client, "weather", tools=[WEATHER, loose, plain], tool_choice="auto")
    assert [getattr(tool, "strict", None) for tool in response.tools] == [True, False, True]
    assert response.tool_choice == "auto"
    assert response.parallel_tool_calls is True


def test_allowed_tools_hide_the_others(client: openai.OpenAI) -> None:
    allowed = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "get_weather"}],
    }
    one = create(client, "weather", tools=[WEATHER])
    both = create(client, "weather", tools=[WEATHER, TIME])
    limited = create(client, "weather", tools=[WEATHER, TIME], tool_choice=allowed)
    tokens = [each.usage.input_tokens for each in (one, both, limited) if each.usage is not None]
    assert tokens[0] == tokens[2] < tokens[1]
    assert limited.tool_choice.to_dict() == allowed  # type: ignore[union-attr]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_a_call_can_be_demanded(client: openai.OpenAI, choice: Any) -> None:
    response = create(client, "weather", tools=[WEATHER, TIME], tool_choice=choice)
    assert kinds(response) == ["function_call"]


def test_no_tool_is_called_where_none_may_be(client: openai.OpenAI) -> None:
    response = create(client, "weather", tools=[WEATHER], tool_choice="none")
    assert kinds(response) == ["message"]
    assert create(client, "say hello", tool_choice="auto", parallel_tool_calls=True).output_text


def test_reasoning_is_an_item_and_goes_back(client: openai.OpenAI) -> None:
    response = create(client, "think first", reasoning={"effort": "high", "summary": "auto"})
    thought, message = response.output
    assert thought.type == "reasoning"
    assert thought.content is not None
    assert (thought.content[0].text, thought.summary) == ("hmm hmm", [])
    assert thought.encrypted_content is None
    assert message.type == "message"
    assert response.output_text == "Done thinking."
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    assert response.reasoning is not None
    assert response.reasoning.effort == "high"
    again = create(client, [user("think first"), *response.output, user("say hello")])
    assert again.status == "completed"


def test_a_thought_goes_back_as_encrypted_content_alone(client: openai.OpenAI) -> None:
    asked: Any = {"include": ["reasoning.encrypted_content"], "store": False}
    first = create(client, "think and call", tools=[WEATHER], **asked)
    assert kinds(first) == ["reasoning", "message", "function_call"]
    thought, _, call = [item.to_dict() for item in first.output]
    sealed = {"type": "reasoning", "id": thought["id"], "summary": []}
    sealed["encrypted_content"] = thought["encrypted_content"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "21 degrees"}
    tokens: list[int] = []
    for shown in (sealed, thought, None):
        items: list[Any] = [user("think and call"), shown, call, output]
        given = [item for item in items if item]
        answer = create(client, given, tools=[WEATHER], reasoning={"context": "all_turns"})
        assert answer.usage is not None
        tokens.append(answer.usage.input_tokens)
    assert tokens[0] == tokens[1] > tokens[2]


def test_effort_none_thinks_nothing(client: openai.OpenAI) -> None:
    with_thought = create(client, "say hello", reasoning={"effort": "high"})
    without = create(client, "say hello", reasoning={"effort": "none"})
    assert with_thought.usage is not None
    assert without.usage is not None
    assert without.usage.input_tokens == chat_tokens(
        client, [user("say hello")], reasoning_effort="none"
    )
    assert without.usage.input_tokens != with_thought.usage.input_tokens


def test_too_many_tokens_make_it_incomplete(client: openai.OpenAI) -> None:
    response = create(client, "many words", max_output_tokens=16)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"
    assert response.output_text == "word " * 16
    assert response.completed_at is None
    thought = create(client, "long thought", max_output_tokens=16)
    assert (thought.status, kinds(thought)) == ("incomplete", ["reasoning"])


def test_a_schema_binds_the_text(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    for wanted in (
        {"type": "json_schema", "name": "person", "schema": schema, "strict": False},
        {"type": "json_object"},
    ):
        response = create(client, "a person", text={"format": wanted})
        assert response.output_text == '{"name": "Ada", "age": 36}'
        assert response.text is not None
        assert response.text.format is not None
        assert response.text.format.to_dict() == wanted


class Person(BaseModel):
    name: str
    age: int


def test_parse_gives_the_model(client: openai.OpenAI) -> None:
    response = client.responses.parse(model=MODEL, input="a person", text_format=Person)
    assert response.output_parsed == Person(name="Ada", age=36)
    again: Any = [user("a person"), *response.output, user("a person")]
    assert create(client, again, text={"format": {"type": "json_object"}}).status == "completed"


def test_logprobs_come_where_they_are_included(client: openai.OpenAI) -> None:
    response = create(client, "say hello", include=["message.output_text.logprobs"], top_logprobs=2)
    (message,) = response.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert "".join(entry.token for entry in part.logprobs) == "Hello there, friend."
    assert all(len(entry.top_logprobs) == 2 for entry in part.logprobs)
    assert response.top_logprobs == 2


def test_the_oldest_turns_are_left_out_where_they_may_be(client: openai.OpenAI) -> None:
    hello, turns = user("say hello"), list[Any]()
    for number in range(20):
        said = f"turn {number:02} " + "filling " * 2500
        turns += [user(said), {"role": "assistant", "content": "ok"}]
    with pytest.raises(openai.BadRequestError) as refused:
        create(client, [*turns, hello], instructions="Stay.")
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "input"
    room = CONTEXT - 64
    response = create(
        client, [*turns, hello], instructions="Stay.", truncation="auto", max_output_tokens=64
    )
    assert response.output_text == "Hello there, friend."
    assert response.truncation == "auto"
    assert response.usage is not None
    system = {"role": "system", "content": "Stay."}
    empty = chat_tokens(client, [system, hello])
    turn = chat_tokens(client, [system, *turns[:2], hello]) - empty
    assert response.usage.input_tokens == empty + (room - empty) // turn * turn
    counted = client.responses.input_tokens.count(
        model=MODEL, input=[*turns, hello], instructions="Stay.", truncation="auto"
    )
    assert counted.input_tokens == empty + (CONTEXT - 16 - empty) // turn * turn
    (item, *_) = client.responses.input_items.list(response.id, order="asc", limit=1)
    assert "turn 00" in str(item.to_dict()), "what was asked is kept whole"


def test_the_async_client_does_the_same(gateway: Gateway) -> None:
    async def ask() -> None:
        async with gateway.async_client() as client:
            response = await client.responses.create(model=MODEL, input="say hello")
            assert response.output_text == "Hello there, friend."
            parsed = await client.responses.parse(model=MODEL, input="a person", text_format=Person)
            assert parsed.output_parsed == Person(name="Ada", age=36)
            async with client.responses.stream(model=MODEL, input="say hello") as stream:
                final = await stream.get_final_response()
            assert final.output_text == "Hello there, friend."
            kept = await client.responses.retrieve(final.id)
            assert kept.output_text == final.output_text
            items = [item async for item in client.responses.input_items.list(final.id)]
            assert len(items) == 1
            await client.responses.delete(final.id)

    asyncio.run(ask())


def test_raw_and_streaming_answers_are_the_same(client: openai.OpenAI) -> None:
    raw = client.responses.with_raw_response.create(model=MODEL, input="say hello")
    assert raw.parse().output_text == "Hello there, friend."
    assert raw.headers["x-request-id"].startswith("req_")
    with client.responses.with_streaming_response.create(model=MODEL, input="say hello") as got:
        assert got.parse().output_text == "Hello there, friend."
