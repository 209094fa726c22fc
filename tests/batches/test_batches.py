"""`/v1/batches` with the official client: from an uploaded file to its output and error file."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from server.store import open_store
from tests.batches.conftest import FOREIGN_KEY, create, line, rows, until, upload
from tests.gateway.conftest import MODEL, Gateway, wait_for


def test_a_batch_answers_every_line_once_in_its_output_or_error_file(
    client: openai.OpenAI,
) -> None:
    lines = [line(f"n{n}", "refuse me" if n % 7 == 3 else "say hello") for n in range(40)]
    lines.append(line("wrong", temperature=9))
    made = create(client, lines, metadata={"name": "first"})
    assert (made.status, made.object, made.metadata) == ("validating", "batch", {"name": "first"})
    ended = until(client, made.id)
    assert (ended.status, ended.model) == ("completed", MODEL)
    counts = ended.request_counts
    assert counts is not None
    failed = {f"n{n}" for n in range(40) if n % 7 == 3} | {"wrong"}
    assert (counts.total, counts.completed, counts.failed) == (41, 41 - len(failed), len(failed))
    output, errors = rows(client, ended.output_file_id), rows(client, ended.error_file_id)
    assert set(errors) == failed
    assert set(output) == {entry["custom_id"] for entry in lines} - failed
    answer = output["n0"]
    assert answer["id"].startswith("batch_req_")
    assert answer["error"] is None
    assert answer["response"]["status_code"] == 200
    body = answer["response"]["body"]
    assert body["choices"][0]["message"]["content"] == "Hello there"
    assert answer["response"]["request_id"].startswith("req_")
    assert errors["n3"]["response"]["status_code"] == 400
    assert errors["n3"]["response"]["body"]["error"]["code"] == "context_length_exceeded"
    assert errors["wrong"]["response"]["body"]["error"]["param"] == "temperature"
    assert ended.usage is not None
    spent = [row["response"]["body"]["usage"] for row in output.values()]
    assert ended.usage.output_tokens == sum(usage["completion_tokens"] for usage in spent)
    assert ended.usage.input_tokens == sum(usage["prompt_tokens"] for usage in spent)
    file = client.files.retrieve(ended.output_file_id or "")
    assert file.purpose == "batch_output"
    assert file.bytes == len(client.files.content(file.id).content)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"prompt": "say hello"}),
        ("/v1/responses", {"input": "say hello", "store": False}),
    ],
)
def test_batches_take_the_other_endpoints(
    client: openai.OpenAI, endpoint: str, body: dict[str, Any]
) -> None:
    asked = {"custom_id": "a", "method": "POST", "url": endpoint, "body": {"model": MODEL, **body}}
    ended = until(client, create(client, [asked], endpoint=endpoint).id)
    assert ended.status == "completed"
    assert rows(client, ended.output_file_id)["a"]["response"]["status_code"] == 200
    assert ended.usage is not None
    assert ended.usage.output_tokens > 0


def test_a_file_with_wrong_lines_fails_whole_and_each_is_named(client: openai.OpenAI) -> None:
    lines: list[dict[str, Any]] = [
        line("a"),
        line("a"),
        {**line("b"), "method": "GET"},
        {**line("c"), "url": "/v1/completions"},
        line("d", model="another"),
        line("e", stream=True),
        {**line("f"), "body": "text"},
        {**line("g"), "more": 1},
    ]
    ended = until(client, create(client, lines).id)
    assert (ended.status, ended.output_file_id) == ("failed", None)
    assert ended.errors is not None
    assert ended.errors.data is not None
    assert [(error.line, error.code, error.param) for error in ended.errors.data] == [
        (2, "duplicate_custom_id", "custom_id"),
        (3, "invalid_method", "method"),
        (4, "mismatched_url", "url"),
        (5, "mismatched_model", "body.model"),
        (6, "invalid_request", "body.stream"),
        (7, "invalid_request", "body"),
        (8, "invalid_json_line", None),
    ]


def test_a_model_that_is_not_there_fails_the_batch(client: openai.OpenAI) -> None:
    ended = until(client, create(client, [line("a", model="nobody")]).id)
    assert ended.errors is not None
    assert ended.errors.data is not None
    assert [error.code for error in ended.errors.data] == ["model_not_found"]


def test_a_cancelled_batch_keeps_what_was_answered(client: openai.OpenAI) -> None:
    lines = [line("a"), line("b"), *(line(f"h{n}", "never end") for n in range(12))]
    made = create(client, lines)
    until(
        client, made.id, lambda b: b.request_counts is not None and b.request_counts.completed == 2
    )
    assert client.batches.cancel(made.id).status == "cancelling"
    ended = until(client, made.id)
    assert ended.status == "cancelled"
    assert ended.cancelled_at is not None
    assert set(rows(client, ended.output_file_id)) == {"a", "b"}
    assert ended.error_file_id is None
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.cancel(client_batch_completed(client))
    assert refused.value.code == "invalid_batch_status"


def client_batch_completed(client: openai.OpenAI) -> str:
    return until(client, create(client, [line("a")]).id).id


def test_what_has_not_run_when_a_batch_expires_is_in_its_error_file(
    gateway: Gateway, client: openai.OpenAI
) -> None:
    async def expire(batch_id: str) -> None:
        from sqlalchemy import update

        from server.store.database import Database
        from server.store.tables import batches

        database = Database(gateway.config.database_url)
        async with database.write() as connection:
            await connection.execute(
                update(batches)
                .where(batches.c.id == batch_id)
                .values(expires_at=1, owner=None, lease_until=None)
            )
        await database.close()

    made = create(client, [line("a"), line("h", "never end")])
    until(
        client, made.id, lambda b: b.request_counts is not None and b.request_counts.completed == 1
    )
    asyncio.run(expire(made.id))
    ended = until(client, made.id)
    assert ended.status == "expired"
    assert set(rows(client, ended.output_file_id)) == {"a"}
    errors = rows(client, ended.error_file_id)
    assert errors["h"]["response"] is None
    assert errors["h"]["error"]["code"] == "batch_expired"


def test_batches_are_listed_by_page_and_only_to_their_project(
    gateway: Gateway, client: openai.OpenAI
) -> None:
    made = [create(client, [line("a")]).id for _ in range(3)]
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert listed[:3] == made[::-1]
    with gateway.client(api_key=FOREIGN_KEY) as foreign:
        assert list(foreign.batches.list()) == []
        for call in (foreign.batches.retrieve, foreign.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                call(made[0])
        with pytest.raises(openai.BadRequestError) as refused:
            foreign.batches.create(
                input_file_id=upload(client, [line("a")]),
                endpoint="/v1/chat/completions",
                completion_window="24h",
            )
    assert refused.value.param == "input_file_id"


def test_a_repeated_creation_makes_one_batch(client: openai.OpenAI) -> None:
    file_id = upload(client, [line("a")])
    headers = {"Idempotency-Key": "the same"}
    ids = {
        client.batches.create(
            input_file_id=file_id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            extra_headers=headers,
        ).id
        for _ in range(2)
    }
    assert len(ids) == 1


def test_lines_of_batches_take_nothing_of_the_limits_per_minute(
    gateway: Gateway, client: openai.OpenAI
) -> None:
    def left() -> int:
        messages: Any = [{"role": "user", "content": "say hello"}]
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages)
        return int(raw.headers["x-ratelimit-remaining-requests"])

    before = left()
    ended = until(client, create(client, [line(f"n{n}") for n in range(200)]).id)
    assert ended.status == "completed"
    assert left() >= before - 2


def test_nothing_but_its_files_is_left_of_a_batch_that_has_ended(
    gateway: Gateway, client: openai.OpenAI
) -> None:
    ended = until(client, create(client, [line("a")]).id)
    journal = gateway.config.data / "batches" / ended.id
    copy = gateway.config.files_dir / "batches" / ended.id
    wait_for(lambda: not journal.exists() and not copy.exists())


def test_the_events_of_batches_are_there_for_webhooks(
    gateway: Gateway, client: openai.OpenAI
) -> None:
    ended = until(client, create(client, [line("a")]).id)

    async def kinds() -> list[str]:
        from server.store.webhooks import Receiver

        store = await open_store(gateway.config.database_url)
        events = frozenset({"batch.completed"})
        await store.webhooks.spread([Receiver("http://a", events, None)])
        told = await store.webhooks.newest(100)
        await store.close()
        return [each.kind for each in told if each.object_id == ended.id]

    assert asyncio.run(kinds()) == ["batch.completed"]
