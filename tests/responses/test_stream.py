"""Streamed responses: every event, in order, by its name and its number."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.conftest import MODEL, Gateway, wait_for
from tests.responses.conftest import TIME, WEATHER

BEGIN = ["response.created", "response.in_progress"]
MESSAGE = ["response.output_item.added", "response.content_part.added"]
MESSAGE_END = [
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
THOUGHT_END = ["response.reasoning_text.done", *MESSAGE_END[1:]]
CALL = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]


def stream(raw: httpx.Client, given: Any, **fields: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """The names and the data of the events, read from the bytes."""
    body = {"model": MODEL, "input": given, "stream": True, **fields}
    answer = raw.post("/responses", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    names: list[str] = []
    events: list[dict[str, Any]] = []
    for record in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = record.split("\n")
        names.append(name.removeprefix("event: "))
        events.append(json.loads(data.removeprefix("data: ")))
    assert [event["type"] for event in events] == names
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return names, events


def joined(names: list[str]) -> list[str]:
    """Repeated deltas as one."""
    return [
        name
        for index, name in enumerate(names)
        if not (name.endswith(".delta") and names[index - 1] == name)
    ]


def test_a_text_is_streamed_in_order(raw: httpx.Client) -> None:
    names, events = stream(raw, "say hello")
    deltas = ["response.output_text.delta"] * 5
    assert names == [*BEGIN, *MESSAGE, *deltas, *MESSAGE_END, "response.completed"]
    texts = [event for event in events if event["type"] == deltas[0]]
    assert [event["delta"] for event in texts] == ["Hello", " there", ",", " friend", "."]
    assert all(event["logprobs"] == [] for event in texts)
    first, last = events[0]["response"], events[-1]["response"]
    assert first["status"] == "in_progress"
    assert (first["output"], first["usage"]) == ([], None)
    assert last["id"] == first["id"]
    assert last["usage"]["output_tokens"] == 5
    assert events[-3]["part"]["text"] == "Hello there, friend."
    assert last["output"] == [events[-2]["item"]]


def test_a_stream_ends_with_what_a_whole_answer_is(raw: httpx.Client) -> None:
    for question in ("say hello", "think first", "say nothing"):
        _, events = stream(raw, question)
        whole = raw.post("/responses", json={"model": MODEL, "input": question}).json()
        streamed = events[-1]["response"]
        assert streamed["id"] != whole["id"]
        assert set(streamed) == set(whole)
        for name in set(whole) - {"id", "output", "created_at", "completed_at", "usage"}:
            assert streamed[name] == whole[name], name
        assert [_without_id(item) for item in streamed["output"]] == [
            _without_id(item) for item in whole["output"]
        ]


def _without_id(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != "id"}


def test_reasoning_comes_before_the_text(raw: httpx.Client) -> None:
    names, events = stream(raw, "think first")
    assert joined(names) == [
        *BEGIN,
        *MESSAGE,
        "response.reasoning_text.delta",
        *THOUGHT_END,
        *MESSAGE,
        "response.output_text.delta",
        *MESSAGE_END,
        "response.completed",
    ]
    thought = "".join(e["delta"] for e in events if e["type"] == "response.reasoning_text.delta")
    assert thought == "hmm hmm"
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [(e["output_index"], e["item"]["type"]) for e in added] == [
        (0, "reasoning"),
        (1, "message"),
    ]


def test_parallel_calls_are_streamed_one_after_the_other(raw: httpx.Client) -> None:
    names, events = stream(raw, "two tools", tools=[WEATHER, TIME])
    assert joined(names) == [*BEGIN, *CALL, *CALL, "response.completed"]
    done = [e for e in events if e["type"] == "response.function_call_arguments.done"]
    assert [(e["name"], e["arguments"], e["output_index"]) for e in done] == [
        ("get_weather", '{"city": "Paris"}', 0),
        ("get_time", '{"city": "Rome"}', 1),
    ]
    for index, event in enumerate(done):
        deltas = [
            e["delta"]
            for e in events
            if e["type"] == "response.function_call_arguments.delta" and e["output_index"] == index
        ]
        assert "".join(deltas) == event["arguments"]


def test_reasoning_text_and_calls_are_three_items(raw: httpx.Client) -> None:
    names, events = stream(raw, "think and call", tools=[WEATHER])
    assert joined(names) == [
        *BEGIN,
        *MESSAGE,
        "response.reasoning_text.delta",
        *THOUGHT_END,
        *MESSAGE,
        "response.output_text.delta",
        *MESSAGE_END,
        *CALL,
        "response.completed",
    ]
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call"]
    assert output == [e["item"] for e in events if e["type"] == "response.output_item.done"]


@pytest.mark.parametrize("question", ["say hello", "think first", "think and call", "two tools"])
def test_the_client_s_state_machine_holds(client: openai.OpenAI, question: str) -> None:
    tools: Any = [WEATHER, TIME]
    with client.responses.stream(model=MODEL, input=question, tools=tools) as opened:
        kinds = [event.type for event in opened]
        final = opened.get_final_response()
    assert kinds[-1] == "response.completed"
    assert final.status == "completed"
    kept = client.responses.retrieve(final.id)
    assert [item.id for item in kept.output] == [item.id for item in final.output]


def test_a_cut_stream_is_incomplete(raw: httpx.Client) -> None:
    names, events = stream(raw, "many words", max_output_tokens=16)
    assert names[-1] == "response.incomplete"
    last = events[-1]["response"]
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["output"][0]["status"] == "incomplete"
    assert raw.get(f"/responses/{last['id']}").json() == last


def test_a_failure_after_the_first_byte_is_an_event(
    raw: httpx.Client, client: openai.OpenAI
) -> None:
    names, events = stream(raw, "break later")
    assert names[:4] == [*BEGIN, *MESSAGE]
    assert names[-1] == "response.failed"
    last = events[-1]["response"]
    assert (last["status"], last["error"]["code"]) == ("failed", "server_error")
    assert "secret" not in json.dumps(last)
    assert last["output"][0]["content"][0]["text"] == "a b "
    opened = client.responses.create(model=MODEL, input="break later", stream=True)
    assert [event.type for event in opened][-1] == "response.failed"


def test_a_refusal_before_the_first_byte_is_a_plain_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="refuse me", stream=True)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input")


def test_logprobs_are_streamed_with_their_text(raw: httpx.Client) -> None:
    _, events = stream(raw, "say hello", include=["message.output_text.logprobs"], top_logprobs=1)
    deltas = [e for e in events if e["type"] == "response.output_text.delta"]
    assert [e["logprobs"][0]["token"] for e in deltas] == [e["delta"] for e in deltas]
    done = next(e for e in events if e["type"] == "response.output_text.done")
    assert done["logprobs"] == [e["logprobs"][0] for e in deltas]


def test_lengths_are_hidden_where_it_is_asked_for(raw: httpx.Client) -> None:
    _, events = stream(raw, "say hello", stream_options={"include_obfuscation": True})
    deltas = [e for e in events if e["type"].endswith(".delta")]
    assert all(event["obfuscation"] for event in deltas)
    _, plain = stream(raw, "say hello")
    assert not any("obfuscation" in event for event in plain)


def test_who_hangs_up_ends_the_generation(gateway: Gateway, client: openai.OpenAI) -> None:
    opened = client.responses.create(model=MODEL, input="never end", stream=True)
    for event in opened:
        if event.type == "response.output_text.delta":
            break
    assert gateway.num_under_way == 1
    opened.close()
    wait_for(lambda: gateway.num_under_way == 0)


def test_a_silent_stream_is_kept_alive(raw: httpx.Client) -> None:
    body = {"model": MODEL, "input": "never end", "stream": True}
    with raw.stream("POST", "/responses", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith(":"):
                break
