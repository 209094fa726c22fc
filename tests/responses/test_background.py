"""Responses in the background, by the official client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response

from server.store import open_store
from server.store.webhooks import Receiver
from tests.gateway.conftest import MODEL, Gateway, wait_for


def begin(client: openai.OpenAI, text: str, **fields: Any) -> Response:
    return client.responses.create(model=MODEL, input=text, background=True, **fields)


def until(
    client: openai.OpenAI, response_id: str, is_it: Callable[[Response], bool] | None = None
) -> Response:
    """Until it has ended, or is as `is_it` wants it."""
    seen: list[Response] = []

    def look() -> bool:
        seen.append(client.responses.retrieve(response_id))
        if is_it is not None:
            return is_it(seen[-1])
        return seen[-1].status not in ("queued", "in_progress")

    wait_for(look)
    return seen[-1]


def kinds_told(gateway: Gateway, response_id: str) -> list[str]:
    async def read() -> list[str]:
        store = await open_store(gateway.config.database_url)
        ends = ("completed", "failed", "cancelled", "incomplete")
        events = frozenset(f"response.{end}" for end in ends)
        await store.webhooks.spread([Receiver("http://a", events, None)])
        told = await store.webhooks.newest(1000)
        await store.close()
        return [each.kind for each in told if each.object_id == response_id]

    return asyncio.run(read())


def test_it_is_answered_queued_and_ends_as_another_would(
    gateway: Gateway, client: openai.OpenAI
) -> None:
    made = begin(client, "say hello", metadata={"a": "b"})
    assert (made.status, made.background, made.output) == ("queued", True, [])
    ended = until(client, made.id)
    assert ended.status == "completed"
    assert ended.output_text == "Hello there, friend."
    assert ended.completed_at is not None
    assert ended.usage is not None
    assert ended.usage.output_tokens == 5
    assert ended.metadata == {"a": "b"}
    assert client.responses.cancel(made.id) == ended
    assert kinds_told(gateway, made.id) == ["response.completed"]
    assert [item.type for item in client.responses.input_items.list(made.id)] == ["message"]
    after = client.responses.create(model=MODEL, input="say hello", previous_response_id=made.id)
    assert after.previous_response_id == made.id


def test_a_cancelled_one_stops_and_stays_cancelled(
    gateway: Gateway, client: openai.OpenAI, foreign: openai.OpenAI
) -> None:
    made = begin(client, "never end")
    running = until(client, made.id, lambda seen: seen.status == "in_progress")
    assert running.output == []
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="x", previous_response_id=made.id)
    assert refused.value.code == "previous_response_not_finished"
    with pytest.raises(openai.NotFoundError):
        foreign.responses.cancel(made.id)
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"
    wait_for(lambda: gateway.num_under_way == 0)
    assert kinds_told(gateway, made.id) == ["response.cancelled"]


def test_a_deleted_one_stops(gateway: Gateway, client: openai.OpenAI) -> None:
    made = begin(client, "never end")
    until(client, made.id, lambda seen: seen.status == "in_progress")
    client.responses.delete(made.id)
    wait_for(lambda: gateway.num_under_way == 0)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_one_that_is_cut_is_incomplete(gateway: Gateway, client: openai.OpenAI) -> None:
    made = begin(client, "many words", max_output_tokens=16)
    ended = until(client, made.id)
    assert ended.status == "incomplete"
    assert ended.incomplete_details is not None
    assert ended.incomplete_details.reason == "max_output_tokens"
    assert kinds_told(gateway, made.id) == ["response.incomplete"]


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [("break later", "server_error", None), ("refuse me", "invalid_prompt", "Too long.")],
)
def test_a_failure_of_the_engine_is_its_end(
    gateway: Gateway, client: openai.OpenAI, text: str, code: str, message: str | None
) -> None:
    made = begin(client, text)
    ended = until(client, made.id)
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.code == code
    assert "secret" not in ended.error.message
    assert message is None or message in ended.error.message
    assert kinds_told(gateway, made.id) == ["response.failed"]


def test_what_is_wrong_is_refused_at_once(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        begin(client, "say hello", store=False)
    assert refused.value.param == "background"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="no-such", input="x", background=True)


def test_events_are_streamed_and_replayed(client: openai.OpenAI) -> None:
    events = [*begin_stream(client, "say hello")]
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    first = events[0]
    assert first.type == "response.created"
    response_id = first.response.id
    assert first.response.status == "queued"
    again = [*client.responses.retrieve(response_id, stream=True)]
    assert again == events
    rest = [*client.responses.retrieve(response_id, stream=True, starting_after=4)]
    assert rest == events[5:]
    assert not [*client.responses.retrieve(response_id, stream=True, starting_after=10_000)]


def begin_stream(client: openai.OpenAI, text: str) -> Any:
    return client.responses.create(model=MODEL, input=text, background=True, stream=True)


def test_a_running_one_is_followed_after_its_first_caller_is_gone(
    gateway: Gateway, client: openai.OpenAI
) -> None:
    stream = begin_stream(client, "never end")
    response_id = next(iter(stream)).response.id
    stream.close()
    with client.responses.retrieve(response_id, stream=True, starting_after=1) as following:
        kinds: list[str] = []
        for event in following:
            kinds.append(event.type)
            if event.type == "response.output_text.delta":
                client.responses.cancel(response_id)
    assert kinds[0] == "response.in_progress"
    assert kinds[-1] == "response.output_text.delta"
    wait_for(lambda: gateway.num_under_way == 0)


def test_starting_after_needs_a_stream(client: openai.OpenAI, raw: httpx.Client) -> None:
    made = begin(client, "say hello")
    for query in ("starting_after=1", "starting_after=-1&stream=true", "starting_after=x"):
        answer = raw.get(f"/responses/{made.id}?{query}")
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "starting_after"
    until(client, made.id)
