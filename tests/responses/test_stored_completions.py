"""Chat completions that are kept (`store`), with the official client."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import httpx
import openai
import pytest

from server.keeping import MAX_STORED_BYTES
from server.store import open_store
from tests.gateway.conftest import MODEL, Gateway, user
from tests.responses.conftest import WEATHER

TOOL: Any = {"type": "function", "function": {k: v for k, v in WEATHER.items() if k != "type"}}


def store(client: openai.OpenAI, text: str = "say hello", **more: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=user(text), store=True, **more)


def test_a_stored_completion_is_there_as_it_was_answered(client: openai.OpenAI) -> None:
    made = store(client, metadata={"run": "first"})
    kept = client.chat.completions.retrieve(made.id)
    assert kept.to_dict() == {**made.to_dict(), "metadata": {"run": "first"}}
    assert kept.choices[0].message.content == "Hello there, friend."
    plain = client.chat.completions.create(model=MODEL, messages=user("say hello"))
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(plain.id)


def test_a_stored_stream_is_the_whole_answer(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = list(store(client, "weather", stream=True, tools=[TOOL], stream_options=options))
    kept = client.chat.completions.retrieve(chunks[0].id)
    calls = kept.choices[0].message.tool_calls
    assert calls is not None
    started = next(c for chunk in chunks for c in (chunk.choices[0].delta.tool_calls or ()))
    assert calls[0].id == started.id
    assert kept.choices[0].finish_reason == "tool_calls"
    assert kept.usage == chunks[-1].usage
    assert kept.created == chunks[0].created


def test_stored_completions_are_listed_by_model_and_metadata(client: openai.OpenAI) -> None:
    made = [store(client, metadata={"list": "x", "n": str(n)}).id for n in range(3)]
    listed = client.chat.completions.list(metadata={"list": "x"}, limit=2)
    assert [one.id for one in listed.data] == made[:2]
    assert listed.has_more
    assert [one.id for one in listed] == made, "the pages that follow too"
    newest = client.chat.completions.list(metadata={"list": "x"}, order="desc", limit=1)
    assert newest.data[0].id == made[2]
    one = client.chat.completions.list(metadata={"list": "x", "n": "1"}, model=MODEL)
    assert [each.id for each in one] == [made[1]]
    assert list(client.chat.completions.list(model="another")) == []
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.list(after="chatcmpl-none")
    assert refused.value.param == "after"


def test_metadata_can_be_changed_and_a_completion_deleted(client: openai.OpenAI) -> None:
    made = store(client, metadata={"old": "1"})
    changed = client.chat.completions.update(made.id, metadata={"new": "2"})
    assert changed.metadata == {"new": "2"}  # type: ignore[attr-defined]
    assert made.id in [each.id for each in client.chat.completions.list(metadata={"new": "2"})]
    assert list(client.chat.completions.list(metadata={"old": "1"})) == []
    deleted = client.chat.completions.delete(made.id)
    assert (deleted.deleted, deleted.object) == (True, "chat.completion.deleted")
    for gone in (
        lambda: client.chat.completions.retrieve(made.id),
        lambda: client.chat.completions.delete(made.id),
        lambda: client.chat.completions.update(made.id, metadata=None),
        lambda: client.chat.completions.messages.list(made.id),
    ):
        with pytest.raises(openai.NotFoundError):
            gone()


def test_the_messages_of_a_completion_are_listed(gateway: Gateway) -> None:
    with gateway.client() as client:
        messages: Any = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "say hello"}], "name": "Ada"},
        ]
        made = client.chat.completions.create(model=MODEL, messages=messages, store=True)
        listed: Any = client.chat.completions.messages.list(made.id).data
        assert [(m.role, m.content) for m in listed] == [("system", "Be brief."), ("user", None)]
        assert listed[1].to_dict()["content_parts"] == messages[1]["content"]
        assert listed[1].name == "Ada"
        later = client.chat.completions.messages.list(made.id, after=listed[0].id)
        assert [m.id for m in later.data] == [listed[1].id]
        last = client.chat.completions.messages.list(made.id, order="desc", limit=1)
        assert [m.id for m in last.data] == [listed[1].id]


def test_another_project_sees_none_of_mine(client: openai.OpenAI, foreign: openai.OpenAI) -> None:
    made = store(client, metadata={"secret": "mine"})
    assert list(foreign.chat.completions.list()) == []
    assert list(foreign.chat.completions.list(metadata={"secret": "mine"})) == []
    for method in (
        lambda: foreign.chat.completions.retrieve(made.id),
        lambda: foreign.chat.completions.delete(made.id),
        lambda: foreign.chat.completions.update(made.id, metadata={"a": "b"}),
        lambda: foreign.chat.completions.messages.list(made.id),
    ):
        with pytest.raises(openai.NotFoundError):
            method()
    with pytest.raises(openai.BadRequestError):
        foreign.chat.completions.list(after=made.id)
    assert client.chat.completions.retrieve(made.id).id == made.id


def test_what_cannot_be_kept_is_refused(raw: httpx.Client) -> None:
    body = {"model": MODEL, "store": True, "messages": user("x" * MAX_STORED_BYTES)}
    answer = raw.post("/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "completion_too_large"
    for metadata in ({"a": 1}, {"a": "x" * 513}, {f"{n}": "x" for n in range(17)}):
        made = raw.post("/chat/completions/chatcmpl-x", json={"metadata": metadata})
        assert made.status_code == 400
    assert raw.post("/chat/completions/chatcmpl-x", json={}).status_code == 400


def test_a_completion_that_is_over_its_time_is_gone(
    gateway: Gateway, client: openai.OpenAI
) -> None:
    made = store(client, metadata={"time": "over"})
    path = gateway.config.database_url.partition("///")[2]
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE stored_completions SET expires_at = 1 WHERE id = ?", [made.id])
    connection.close()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(made.id)

    async def tidy() -> None:
        opened = await open_store(gateway.config.database_url)
        await opened.completions.remove_expired()
        await opened.close()

    asyncio.run(tidy())
    with sqlite3.connect(path) as connection:
        for table, column in (
            ("stored_completions", "id"),
            ("stored_completion_metadata", "completion_id"),
        ):
            query = f"SELECT count(*) FROM {table} WHERE {column} = ?"
            assert connection.execute(query, [made.id]).fetchone() == (0,)
    connection.close()
