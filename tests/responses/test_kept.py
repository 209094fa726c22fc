"""Kept responses: gone on from, retrieved, listed, deleted, expired, and nobody else's."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import openai
import pytest

from server.auth import Principal
from server.errors import InvalidRequest, RateLimited
from server.responses.context import (
    MAX_CHAIN,
    MAX_CONTEXT_ITEMS,
    MAX_LOADED_AT_ONCE,
    MAX_LOADS_OF_PROJECT,
    ContextLoader,
)
from server.responses.items import MAX_ITEMS
from server.store import open_store
from server.store.records import Project
from server.store.responses import StoredResponse
from tests.gateway.conftest import MODEL, Gateway
from tests.responses.conftest import WEATHER
from tests.responses.test_create import chat_tokens, create, user


def test_a_response_is_retrieved_as_it_was(raw: httpx.Client, client: openai.OpenAI) -> None:
    answer = raw.post("/responses", json={"model": MODEL, "input": "think first"})
    body = answer.json()
    assert raw.get(f"/responses/{body['id']}").json() == body
    assert client.responses.retrieve(body["id"]).output_text == "Done thinking."


def test_what_is_not_to_be_kept_is_not(client: openai.OpenAI) -> None:
    response = create(client, "say hello", store=False)
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_it_is_gone_on_from(client: openai.OpenAI) -> None:
    first = create(client, "say hello", instructions="Be kind.")
    second = create(client, "many words", previous_response_id=first.id)
    third = create(client, "say nothing", previous_response_id=second.id, instructions="Be brief.")
    assert (third.previous_response_id, third.instructions) == (second.id, "Be brief.")
    assert third.usage is not None
    assert third.usage.input_tokens == chat_tokens(
        client,
        [
            {"role": "system", "content": "Be brief."},
            user("say hello"),
            {"role": "assistant", "content": "Hello there, friend."},
            user("many words"),
            {"role": "assistant", "content": second.output_text},
            user("say nothing"),
        ],
    )


def test_calls_and_their_outputs_are_gone_on_from(client: openai.OpenAI) -> None:
    first = create(client, "weather", tools=[WEATHER])
    (call,) = first.output
    assert call.type == "function_call"
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
    second = create(client, [output], tools=[WEATHER], previous_response_id=first.id)
    assert second.output_text == "It is sunny in Paris."
    third = create(client, "21 degrees, again?", previous_response_id=second.id)
    assert third.output_text == "It is sunny in Paris."
    assert third.usage is not None
    called = {
        "id": call.call_id,
        "type": "function",
        "function": {"name": "get_weather", "arguments": call.arguments},
    }
    assert third.usage.input_tokens == chat_tokens(
        client,
        [
            user("weather"),
            {"role": "assistant", "tool_calls": [called]},
            {"role": "tool", "tool_call_id": call.call_id, "content": "21 degrees"},
            {"role": "assistant", "content": "It is sunny in Paris."},
            user("21 degrees, again?"),
        ],
    ), "the tools are not taken along"


def test_a_call_without_its_output_is_not_gone_on_from(client: openai.OpenAI) -> None:
    first = create(client, "weather", tools=[WEATHER])
    with pytest.raises(openai.BadRequestError, match="No tool output found for function call"):
        create(client, "and now?", previous_response_id=first.id)


def test_items_are_referred_to(client: openai.OpenAI, foreign: openai.OpenAI) -> None:
    first = create(client, "say hello")
    (asked,) = client.responses.input_items.list(first.id)
    references: list[Any] = [
        {"type": "item_reference", "id": asked.id},
        {"id": first.output[0].id},
        user("say nothing"),
    ]
    by_reference = create(client, references)
    by_id = create(client, "say nothing", previous_response_id=first.id)
    assert by_reference.usage is not None
    assert by_id.usage is not None
    assert by_reference.usage.input_tokens == by_id.usage.input_tokens
    with pytest.raises(openai.BadRequestError) as repeated:
        create(client, [*references, references[0]])
    assert (repeated.value.param, repeated.value.code) == ("input[3].id", "invalid_value")
    for caller, missing in ((foreign, references), (client, [{"id": "msg_none"}])):
        with pytest.raises(openai.NotFoundError) as refused:
            create(caller, missing)
        assert refused.value.param == "input[0].id"


def test_input_items_are_listed_in_pages(client: openai.OpenAI) -> None:
    given: list[Any] = [user(f"say hello {number}") for number in range(7)]
    given[0] = {
        "role": "user",
        "content": [{"type": "input_text", "text": "say hello 0"}],
    }
    response = create(client, given)
    for order in ("asc", "desc"):
        listed = list(client.responses.input_items.list(response.id, limit=3, order=order))
        texts = [item.to_dict()["content"][0]["text"] for item in listed]  # type: ignore[index]
        expected = [f"say hello {number}" for number in range(7)]
        assert texts == (expected if order == "asc" else expected[::-1])
        assert len({item.id for item in listed}) == 7
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.input_items.list(response.id, after="msg_none")
    assert refused.value.param == "after"
    with pytest.raises(openai.BadRequestError):
        client.responses.input_items.list(response.id, limit=101)


def test_every_kind_of_item_is_listed_in_its_full_shape(client: openai.OpenAI) -> None:
    call: dict[str, Any] = {"type": "function_call", "call_id": "call_1", "name": "get_weather"}
    given: list[Any] = [
        {"role": "system", "content": "Be brief."},
        user("weather"),
        {
            "type": "reasoning",
            "id": "rs_mine",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
        },
        {"role": "assistant", "content": "Let me see."},
        {**call, "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "21 degrees"},
    ]
    response = create(client, given)
    listed = list(client.responses.input_items.list(response.id, order="asc"))
    assert [item.type for item in listed] == [
        *("message", "message", "reasoning", "message"),
        *("function_call", "function_call_output"),
    ]
    assert listed[2].id == "rs_mine"
    assert listed[3].to_dict()["content"] == [
        {"type": "output_text", "text": "Let me see.", "annotations": [], "logprobs": []}
    ]


def test_a_deleted_response_is_gone(client: openai.OpenAI, raw: httpx.Client) -> None:
    first = create(client, "say hello")
    second = create(client, "say hello", previous_response_id=first.id)
    third = create(client, "say hello", previous_response_id=second.id)
    answer = raw.delete(f"/responses/{first.id}")
    assert answer.json() == {"id": first.id, "object": "response.deleted", "deleted": True}
    for call in (
        lambda: client.responses.retrieve(first.id),
        lambda: client.responses.delete(first.id),
        lambda: client.responses.input_items.list(first.id),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    for previous in (first.id, third.id):
        with pytest.raises(openai.BadRequestError) as refused:
            create(client, "say hello", previous_response_id=previous)
        assert refused.value.code == "previous_response_not_found"
        assert refused.value.param == "previous_response_id"
        assert first.id in refused.value.message


def test_another_project_sees_nothing(client: openai.OpenAI, foreign: openai.OpenAI) -> None:
    response = create(client, "say hello")
    for call in (
        lambda: foreign.responses.retrieve(response.id),
        lambda: foreign.responses.delete(response.id),
        lambda: foreign.responses.cancel(response.id),
        lambda: foreign.responses.input_items.list(response.id),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    for call in (
        lambda: create(foreign, "say hello", previous_response_id=response.id),
        lambda: foreign.responses.input_tokens.count(
            model=MODEL, input="x", previous_response_id=response.id
        ),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            call()
        assert refused.value.code == "previous_response_not_found"
    assert client.responses.retrieve(response.id).id == response.id


def test_a_response_that_is_not_in_the_background_cannot_be_cancelled(
    client: openai.OpenAI,
) -> None:
    response = create(client, "say hello")
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(response.id)


def test_events_are_not_sent_again(client: openai.OpenAI) -> None:
    response = create(client, "say hello")
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.retrieve(response.id, stream=True)
    assert refused.value.param == "stream"
    assert client.responses.retrieve(response.id, stream=False).id == response.id


@pytest.mark.parametrize("query", ["include=x", "include_obfuscation=true"])
def test_what_a_reading_does_not_take_is_refused(raw: httpx.Client, query: str) -> None:
    made = raw.post("/responses", json={"model": MODEL, "input": "say hello"}).json()
    for path in (f"/responses/{made['id']}", f"/responses/{made['id']}/input_items"):
        answer = raw.get(f"{path}?{query}")
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == (query.partition("=")[0], "unknown_parameter")


def test_tokens_are_counted_before_they_are_paid(client: openai.OpenAI) -> None:
    first = create(client, "say hello")
    asked: dict[str, Any] = {
        "input": [user("say nothing")],
        "instructions": "Be brief.",
        "tools": [WEATHER],
        "previous_response_id": first.id,
        "reasoning": {"effort": "none"},
    }
    counted = client.responses.input_tokens.count(model=MODEL, **asked)
    answer = client.responses.create(model=MODEL, **asked, tool_choice="auto")
    assert answer.usage is not None
    assert counted.input_tokens == answer.usage.input_tokens
    assert counted.object == "response.input_tokens"


def test_counting_is_work_of_the_project(gateway: Gateway, client: openai.OpenAI) -> None:
    runner, limits = gateway.app.services.runner, gateway.config.limits
    principal = Principal("key", Project("proj_test", "Acme", "acme", 0))
    whole = runner.room(principal, limits.max_requests_per_project)
    with whole, pytest.raises(openai.RateLimitError):
        client.responses.input_tokens.count(model=MODEL, input="say hello")
    assert client.responses.input_tokens.count(model=MODEL, input="say hello").input_tokens


def test_a_model_is_looked_for_before_what_came_before(client: openai.OpenAI) -> None:
    for ask in (client.responses.create, client.responses.input_tokens.count):
        with pytest.raises(openai.NotFoundError) as refused:
            ask(model="none", input="hi", previous_response_id="resp_none")
        assert refused.value.param == "model"


class _Slow:
    """Finds nothing, once it may."""

    def __init__(self) -> None:
        self.most = self._inside = 0
        self.may_end = asyncio.Event()

    async def find(self, project_id: str, response_id: str) -> StoredResponse | None:
        self._inside += 1
        self.most = max(self.most, self._inside)
        await self.may_end.wait()
        self._inside -= 1
        return None

    async def chain(self, project_id: str, response_id: str) -> tuple[StoredResponse, ...]:
        raise AssertionError("nothing was found")


async def test_a_project_has_few_contexts_read_at_once() -> None:
    kept = _Slow()
    loader = ContextLoader(kept)
    loads = [
        asyncio.ensure_future(loader.load("proj", "hi", "resp_1"))
        for _ in range(MAX_LOADS_OF_PROJECT)
    ]
    await asyncio.sleep(0)
    with pytest.raises(RateLimited):
        await loader.load("proj", "hi", "resp_1")
    assert (await loader.load("proj", "hi", None)).own == "hi"
    kept.may_end.set()
    ends = await asyncio.gather(*loads, return_exceptions=True)
    assert all(isinstance(end, InvalidRequest) for end in ends)
    assert kept.most == MAX_LOADED_AT_ONCE


async def _add(gateway: Gateway, **changes: Any) -> None:
    now = int(time.time())
    row = {
        "id": "resp_row",
        "project_id": "proj_test",
        "created_at": now,
        "expires_at": now + 1000,
        "previous_id": None,
        "model": MODEL,
        "status": "completed",
        "body": '{"id": "resp_row", "output": []}',
        "input": "[]",
        "depth": 0,
        "context_bytes": 30,
    }
    store = await open_store(gateway.config.database_url)
    await store.responses.add([StoredResponse(**{**row, **changes})])
    await store.responses.remove_expired()
    await store.close()


def test_an_expired_response_is_gone(gateway: Gateway, raw: httpx.Client) -> None:
    now = int(time.time())
    asyncio.run(_add(gateway, id="resp_old", created_at=now - 100, expires_at=now - 1))
    assert raw.get("/responses/resp_old").status_code == 404
    asyncio.run(_add(gateway, id="resp_young"))
    assert raw.get("/responses/resp_young").status_code == 200


def test_what_cannot_be_read_again_is_refused(gateway: Gateway, client: openai.OpenAI) -> None:
    body = '{"id": "resp_bad", "output": [{"type": "function_call"}]}'
    asyncio.run(_add(gateway, id="resp_bad", body=body))
    with pytest.raises(openai.BadRequestError) as refused:
        create(client, "say hello", previous_response_id="resp_bad")
    assert refused.value.param == "previous_response_id"


def test_a_chain_has_an_end(gateway: Gateway, client: openai.OpenAI) -> None:
    asyncio.run(_add(gateway, id="resp_deep", depth=MAX_CHAIN))
    asyncio.run(_add(gateway, id="resp_wide", context_bytes=10**9))
    before = None
    for number in range(MAX_CONTEXT_ITEMS // MAX_ITEMS + 1):
        items = json.dumps([user("x")] * MAX_ITEMS)
        before, last = f"resp_many{number}", before
        asyncio.run(_add(gateway, id=before, previous_id=last, input=items, depth=number))
    for previous in ("resp_deep", "resp_wide", before):
        with pytest.raises(openai.BadRequestError) as refused:
            create(client, "say hello", previous_response_id=previous)
        assert refused.value.code == "context_length_exceeded"
        assert refused.value.param == "previous_response_id"


def test_responses_last_as_long_as_the_operator_says(gateway: Gateway) -> None:
    with gateway.client() as client:
        response = create(client, "say hello")

    async def read() -> StoredResponse | None:
        store = await open_store(gateway.config.database_url)
        found = await store.responses.find("proj_test", response.id)
        await store.close()
        return found

    found = asyncio.run(read())
    assert found is not None
    assert found.expires_at - found.created_at == 30 * 24 * 3600
