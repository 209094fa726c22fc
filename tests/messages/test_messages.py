"""Anthropic's Messages API with its official client, and raw bytes where order counts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import httpx
import pytest

from server.responses.thoughts import seal_thought
from tests.gateway.conftest import KEY, MODEL, Gateway
from tests.messages.conftest import connect

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
TIME: dict[str, Any] = {**WEATHER, "name": "get_time"}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def create(client: anthropic.Anthropic, *messages: Any, **fields: Any) -> anthropic.types.Message:
    turns: Any = [user(each) if isinstance(each, str) else each for each in messages]
    return client.messages.create(**{"model": MODEL, "max_tokens": 100, **fields}, messages=turns)


def count(client: anthropic.Anthropic, *messages: Any, **fields: Any) -> int:
    turns: Any = [user(each) if isinstance(each, str) else each for each in messages]
    return client.messages.count_tokens(model=MODEL, messages=turns, **fields).input_tokens


def events(raw: httpx.Client, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    body = {"model": MODEL, "max_tokens": 100, "stream": True, **fields}
    answer = raw.post("/messages", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found: list[tuple[str, dict[str, Any]]] = []
    for part in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = part.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    assert all(name == data["type"] for name, data in found)
    return found


def test_a_text_is_answered(client: anthropic.Anthropic) -> None:
    answer = create(
        client,
        "say hello",
        metadata={"user_id": "u"},
        extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 5},
    )
    assert [block.to_dict() for block in answer.content] == [
        {"type": "text", "text": "Hello there, friend.", "citations": None}
    ]
    assert (answer.stop_reason, answer.stop_sequence, answer.model) == ("end_turn", None, MODEL)
    assert answer.id.startswith("msg_")
    assert answer.usage.output_tokens == 5
    assert answer.usage.input_tokens == count(client, "say hello")
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


def test_the_prompt_is_the_one_that_chat_has(gateway: Gateway, client: anthropic.Anthropic) -> None:
    cached = {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}
    turns = [user("Hi"), {"role": "assistant", "content": "Yes?"}, user("say hello")]
    ours = count(client, *turns, system=[cached])
    assert ours == count(client, *turns, system="Be kind.")
    with gateway.client() as openai_client:
        messages: Any = [{"role": "system", "content": "Be kind."}, *turns]
        chat = openai_client.chat.completions.create(model=MODEL, messages=messages)
    assert chat.usage is not None
    assert ours == chat.usage.prompt_tokens
    assert ours == create(client, *turns, system="Be kind.").usage.input_tokens


def test_turns_of_one_role_are_one(client: anthropic.Anthropic) -> None:
    assert count(client, "say ", "hello") == count(client, "say hello")


def test_a_tool_is_called_and_its_result_taken(client: anthropic.Anthropic) -> None:
    first = create(client, "weather", tools=[WEATHER])
    assert first.stop_reason == "tool_use"
    (call,) = first.content
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
    turn = {"role": "assistant", "content": [call.to_dict()]}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "21 degrees"}
    answer = create(client, "weather", turn, user([result]), tools=[WEATHER])
    assert answer.content[0].to_dict()["text"] == "It is sunny in Paris."
    asked = {"tools": [WEATHER]}
    failed = {**result, "is_error": True}
    prefixed = {**result, "content": "Error: 21 degrees"}
    assert count(client, "weather", turn, user([failed]), **asked) == count(
        client, "weather", turn, user([prefixed]), **asked
    )


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_call_can_be_demanded(client: anthropic.Anthropic, choice: Any) -> None:
    answer = create(client, "weather", tools=[WEATHER, TIME], tool_choice=choice)
    assert [block.type for block in answer.content] == ["tool_use"]
    assert answer.stop_reason == "tool_use"


def test_choices_of_tools_are_kept(client: anthropic.Anthropic) -> None:
    both = create(client, "two tools", tools=[WEATHER, TIME])
    assert [block.type for block in both.content] == ["tool_use", "tool_use"]
    tools = [WEATHER, TIME]
    none = {"type": "none"}
    assert count(client, "weather", tools=tools, tool_choice=none) == count(client, "weather")
    assert create(client, "weather", tools=tools, tool_choice=none).stop_reason == "end_turn"


def test_a_thought_is_signed_and_goes_back(client: anthropic.Anthropic) -> None:
    answer = create(client, "think and call", tools=[WEATHER])
    thought, text, call = answer.content
    assert thought.type == "thinking"
    assert (thought.thinking, thought.signature) == ("Where?", seal_thought("Where?"))
    assert (text.type, call.type) == ("text", "tool_use")
    result = user([{"type": "tool_result", "tool_use_id": call.to_dict()["id"], "content": "21"}])
    redacted = {"type": "redacted_thinking", "data": thought.signature}
    hidden = {**thought.to_dict(), "thinking": ""}
    rest = [text.to_dict(), call.to_dict()]
    tokens = [
        count(
            client,
            "think and call",
            {"role": "assistant", "content": [*given, *rest]},
            result,
            tools=[WEATHER],
        )
        for given in ([thought.to_dict()], [redacted], [hidden], [])
    ]
    assert tokens[0] == tokens[1] == tokens[2] > tokens[3]


def test_thinking_can_be_hidden_bounded_and_switched_off(client: anthropic.Anthropic) -> None:
    omitted = {"type": "adaptive", "display": "omitted"}
    hidden = create(client, "think first", thinking=omitted)
    assert hidden.content[0].to_dict() == {
        "type": "thinking",
        "thinking": "",
        "signature": seal_thought("hmm hmm"),
    }
    bounded = {"type": "enabled", "budget_tokens": 8}
    answer = create(client, "long thought", thinking=bounded)
    assert answer.content[0].type == "thinking"
    assert answer.content[0].thinking.count("hm") == 8
    off = count(client, "say hello", thinking={"type": "disabled"})
    assert off != count(client, "say hello")


def test_reasons_of_the_end_are_told(client: anthropic.Anthropic) -> None:
    cut = create(client, "many words", max_tokens=16)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 16)
    for stops in (["!", " friend"], [" friend", ","]):
        stopped = create(client, "say hello", stop_sequences=stops)
        met = " friend" if "," not in stops else ","
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", met)
        assert stopped.content[0].to_dict()["text"] == "Hello there, friend.".partition(met)[0]


def test_an_answer_matches_a_schema(client: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    wanted: Any = {"format": {"type": "json_schema", "schema": schema}}
    answer = create(client, "a person", output_config=wanted)
    assert json.loads(answer.content[0].to_dict()["text"]) == {"name": "Ada", "age": 36}


def test_a_begun_answer_is_continued(client: anthropic.Anthropic) -> None:
    begun = {"role": "assistant", "content": "Well"}
    assert count(client, "say hello", begun, user("x")) > count(client, "say hello", begun)
    assert create(client, "say hello", begun).content[0].to_dict()["text"] == "Hello there, friend."


def test_a_text_streams_in_order(raw: httpx.Client) -> None:
    found = events(raw, messages=[user("say hello")])
    names = [name for name, _ in found]
    assert names == [
        *("message_start", "ping", "content_block_start"),
        *["content_block_delta"] * 5,
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    start = found[0][1]["message"]
    assert (start["content"], start["stop_reason"], start["role"]) == ([], None, "assistant")
    last = found[-2][1]
    assert last["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert last["usage"]["output_tokens"] == 5
    assert last["usage"]["input_tokens"] > 0


def test_blocks_stream_one_after_the_other(raw: httpx.Client) -> None:
    found = events(raw, messages=[user("think and call")], tools=[WEATHER])
    blocks = [(data["index"], name) for name, data in found if name.startswith("content_block")]
    assert [index for index, _ in blocks] == sorted(index for index, _ in blocks)
    starts = [data["content_block"] for name, data in found if name == "content_block_start"]
    assert [block["type"] for block in starts] == ["thinking", "text", "tool_use"]
    assert starts[2]["input"] == {}
    deltas = [data["delta"] for name, data in found if name == "content_block_delta"]
    kinds = list(dict.fromkeys(delta["type"] for delta in deltas))
    assert kinds == ["thinking_delta", "signature_delta", "text_delta", "input_json_delta"]
    given = "".join(delta.get("partial_json", "") for delta in deltas)
    assert json.loads(given) == {"city": "Paris"}
    assert found[-2][1]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize("prompt", ["say hello", "think and call", "two tools", "say nothing"])
def test_a_streamed_message_is_the_whole_one(client: anthropic.Anthropic, prompt: str) -> None:
    tools: Any = [WEATHER, TIME]
    turns: Any = [user(prompt)]
    whole = create(client, prompt, tools=tools)
    with client.messages.stream(model=MODEL, max_tokens=100, messages=turns, tools=tools) as stream:
        streamed = stream.get_final_message()

    def shown(message: Any) -> Any:
        kept = message.to_dict()
        return [
            {name: value for name, value in block.items() if name in ("type", "input", "thinking")}
            | {"text": block.get("text", "").strip(), "signature": block.get("signature")}
            for block in kept["content"]
        ], kept["stop_reason"]

    assert shown(streamed) == shown(whole)
    assert streamed.usage.input_tokens == whole.usage.input_tokens
    assert streamed.usage.output_tokens == whole.usage.output_tokens


def test_the_async_client_works(gateway: Gateway) -> None:
    async def ask() -> str:
        async with anthropic.AsyncAnthropic(
            base_url=gateway.url, auth_token=KEY, max_retries=0
        ) as client:
            turns: Any = [user("say hello")]
            async with client.messages.stream(model=MODEL, max_tokens=9, messages=turns) as stream:
                return "".join([text async for text in stream.text_stream])

    assert asyncio.run(ask()) == "Hello there, friend."


def test_errors_have_anthropics_classes_and_envelope(
    gateway: Gateway, client: anthropic.Anthropic
) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        create(client, "hi", model="nobody")
    body: Any = unknown.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
    assert body["request_id"] == unknown.value.response.headers["request-id"]
    with connect(gateway, api_key="sk-wrong") as wrong:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            create(wrong, "hi")
        with pytest.raises(anthropic.AuthenticationError):
            count(wrong, "hi")
    assert json.loads(refused.value.response.text)["error"]["type"] == "authentication_error"
    with pytest.raises(anthropic.BadRequestError, match="Too long"):
        create(client, "refuse me")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
        ({"container": "c"}, "container"),
        ({"thinking": {"type": "enabled", "budget_tokens": 200}}, "thinking.budget_tokens"),
        ({"messages": [user([{"type": "document"}])]}, "messages[0].content[0]"),
        ({"messages": [user([{"type": "tool_result", "tool_use_id": "x"}])]}, "tool_use_id"),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "redacted_thinking", "data": "foreign"}],
                    }
                ]
            },
            "messages[0].content[0].data",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}],
                    }
                ]
            },
            "tool_result",
        ),
    ],
)
def test_what_is_wrong_is_named(raw: httpx.Client, fields: dict[str, Any], named: str) -> None:
    body = {"model": MODEL, "max_tokens": 100, "messages": [user("hi")], **fields}
    answer = raw.post("/messages", json=body)
    error = answer.json()
    assert (answer.status_code, error["error"]["type"]) == (400, "invalid_request_error")
    assert named in error["error"]["message"]


def test_refusals_before_the_endpoint_have_the_envelope(
    gateway: Gateway, raw: httpx.Client
) -> None:
    no_json = raw.post("/messages", content=b"{")
    assert (no_json.status_code, no_json.json()["error"]["type"]) == (400, "invalid_request_error")
    large = raw.post("/messages", content=bytes(gateway.config.limits.max_body_bytes + 1))
    assert (large.status_code, large.json()["error"]["type"]) == (413, "request_too_large")
    bare = httpx.post(f"{gateway.url}/v1/messages", json={})
    assert (bare.status_code, bare.json()["error"]["type"]) == (401, "authentication_error")
    chat = raw.post("/chat/completions", json={})
    assert set(chat.json()) == {"error"}


def test_a_fault_in_a_stream_is_an_error_event(raw: httpx.Client) -> None:
    found = events(raw, messages=[user("break later")])
    assert found[-1][0] == "error"
    assert found[-1][1]["error"]["type"] == "api_error"
    assert "secret" not in found[-1][1]["error"]["message"]
