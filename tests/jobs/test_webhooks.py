"""Webhooks: what is told of a job's end, to whom, and what becomes of one that is not taken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from pydantic import ValidationError
from sqlalchemy import update

from server.config import Config
from server.store import Store
from server.store.records import Job, JobError, JobStatus
from server.store.tables import webhook_deliveries, webhook_events
from server.store.webhooks import KEPT_S, Delivery, DeliveryState
from server.supervisor.patience import Patience
from server.supervisor.webhooks import GIVE_UP_AFTER_S, WebhookTeller, after_failure
from tests.jobs.receiver import SECRET, Receiver, running_receiver
from tests.jobs.test_job_states import NOTE, outcome_of, reach


@pytest.fixture
def receiver() -> Generator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@asynccontextmanager
async def telling(store: Store, *entries: dict[str, Any]) -> AsyncGenerator[None]:
    config = Config.model_validate({"webhooks": list(entries)})
    task = asyncio.create_task(WebhookTeller(config.webhooks, store, Patience()).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def ended(store: Store, how: JobStatus = JobStatus.CANCELLED) -> Job:
    job = await reach(store, JobStatus.RUNNING)
    if how is JobStatus.SUCCEEDED:
        assert await store.progress.succeed("me", job.id, outcome_of(job))
    elif how is JobStatus.FAILED:
        assert await store.progress.fail("me", job.id, JobError("c", "m"), [NOTE])
    else:
        assert await store.jobs.cancel(job.project_id, job.id, NOTE)
    return job


async def deliveries(store: Store, count: int, state: DeliveryState) -> Sequence[Delivery]:
    """Waits until so many are in that state."""
    async with asyncio.timeout(120):
        while True:
            found = [d for d in await store.webhooks.newest(100) if d.state is state]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.02)


async def make_due(store: Store) -> None:
    async with store._database.write() as connection:
        await connection.execute(update(webhook_deliveries).values(next_at=time.time()))


@pytest.mark.parametrize("how", [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED])
async def test_an_ending_is_told_once_and_openais_client_verifies_it(
    store: Store, receiver: Receiver, how: JobStatus
) -> None:
    job = await ended(store, how)
    async with telling(store, receiver.settings()):
        (event,) = await asyncio.to_thread(receiver.wait_for, 1)
        (delivered,) = await deliveries(store, 1, DeliveryState.DELIVERED)
    assert (event.type, event.object) == (f"fine_tuning.job.{how.value}", "event")
    assert event.data.id == job.id
    assert event.id == delivered.event_id
    assert event.id.startswith("evt_")
    assert (delivered.num_attempts, delivered.error) == (1, None)
    headers, body = receiver.taken[0]
    assert {name.lower() for name in headers} > {"webhook-id", "webhook-timestamp"}
    client = openai.OpenAI(api_key="none", webhook_secret=SECRET)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body.replace(b"job", b"jab"), headers)
    async with telling(store, receiver.settings()):
        await ended(store)
        await deliveries(store, 2, DeliveryState.DELIVERED)
    assert len({body["id"] for body in receiver.bodies}) == len(receiver.taken) == 2


async def test_a_job_that_only_moves_on_is_not_told_of(store: Store) -> None:
    await reach(store, JobStatus.PAUSED)
    async with store._database.read() as connection:
        assert (await connection.execute(webhook_events.select())).all() == []


@pytest.mark.parametrize("status", [500, 302, 410])
async def test_what_is_not_taken_is_sent_again_under_the_same_id(
    store: Store, receiver: Receiver, status: int
) -> None:
    receiver.statuses.append(status)
    await ended(store)
    before = time.time()
    async with telling(store, receiver.settings()):
        await asyncio.to_thread(receiver.wait_for, 1)
        async with asyncio.timeout(120):
            while not (tried := await store.webhooks.newest(1))[0].num_attempts:
                await asyncio.sleep(0.02)
        assert tried[0].state is DeliveryState.PENDING
        assert tried[0].error == f"answered with status {status}"
        assert tried[0].next_at >= before + 5
        await make_due(store)
        (delivered,) = await deliveries(store, 1, DeliveryState.DELIVERED)
    assert delivered.num_attempts == 2
    first, second = receiver.taken
    assert first[1] == second[1]
    assert first[0]["webhook-id"] == second[0]["webhook-id"]


async def test_a_receiver_that_is_away_keeps_no_other_waiting(
    store: Store, receiver: Receiver
) -> None:
    away = {"url": "http://127.0.0.1:9/hook", "secret": SECRET, "private": True}
    await ended(store)
    async with telling(store, away, receiver.settings()):
        await deliveries(store, 1, DeliveryState.DELIVERED)
        async with asyncio.timeout(120):
            while not any(d.error == "ConnectError" for d in await store.webhooks.newest(9)):
                await asyncio.sleep(0.02)


async def test_a_private_address_is_not_connected_to(store: Store, receiver: Receiver) -> None:
    named = receiver.url.replace("127.0.0.1", "localhost")
    await ended(store)
    async with telling(
        store, receiver.settings(private=False), receiver.settings(private=False, url=named)
    ):
        async with asyncio.timeout(120):
            while True:
                tried = await store.webhooks.newest(9)
                if len(tried) == 2 and all(d.num_attempts for d in tried):
                    break
                await asyncio.sleep(0.02)
    assert {d.error for d in tried} == {"Its host is not at a public address."}
    assert receiver.taken == []


async def test_a_receiver_gets_only_the_events_and_projects_that_it_wants(
    store: Store, receiver: Receiver
) -> None:
    failed = await ended(store, JobStatus.FAILED)
    await ended(store, JobStatus.FAILED)
    await ended(store, JobStatus.SUCCEEDED)
    wanted = {"events": ["fine_tuning.job.failed"], "projects": [failed.project_id]}
    async with telling(store, receiver.settings(**wanted)):
        await deliveries(store, 1, DeliveryState.DELIVERED)
        async with asyncio.timeout(120):
            while await _unspread(store):
                await asyncio.sleep(0.02)
    assert [body["data"]["id"] for body in receiver.bodies] == [failed.id]
    assert len(await store.webhooks.newest(9)) == 1


async def _unspread(store: Store) -> int:
    async with store._database.read() as connection:
        rows = await connection.execute(
            webhook_events.select().where(webhook_events.c.spread_at.is_(None))
        )
        return len(rows.all())


async def test_what_ended_before_there_was_a_receiver_is_not_told_later(
    store: Store, receiver: Receiver
) -> None:
    await ended(store)
    async with telling(store):
        async with asyncio.timeout(120):
            while await _unspread(store):
                await asyncio.sleep(0.02)
    later = await ended(store)
    async with telling(store, receiver.settings()):
        await deliveries(store, 1, DeliveryState.DELIVERED)
    assert [body["data"]["id"] for body in receiver.bodies] == [later.id]


async def test_of_two_supervisors_one_sends(store: Store, receiver: Receiver) -> None:
    for _ in range(5):
        await ended(store)
    async with telling(store, receiver.settings()), telling(store, receiver.settings()):
        await deliveries(store, 5, DeliveryState.DELIVERED)
    assert len({body["id"] for body in receiver.bodies}) == len(receiver.taken) == 5


async def test_a_claim_of_one_who_died_runs_out(store: Store, receiver: Receiver) -> None:
    await ended(store)
    async with telling(store):
        pass
    async with telling(store, receiver.settings()):
        await deliveries(store, 1, DeliveryState.DELIVERED)
    async with store._database.write() as connection:
        values = {"state": DeliveryState.PENDING.value, "next_at": 0.0}
        await connection.execute(update(webhook_deliveries).values(**values))
    assert len(await store.webhooks.claim(receiver.url, 60.0, 8)) == 1
    assert await store.webhooks.claim(receiver.url, 60.0, 8) == ()
    await make_due(store)
    assert len(await store.webhooks.claim(receiver.url, 60.0, 8)) == 1


def _delivery(num_attempts: int, created_at: int) -> Delivery:
    return Delivery(
        1, "evt_1", "t", "p", "o", created_at, "u", DeliveryState.PENDING, num_attempts, 0.0, None
    )


def test_pauses_grow_until_it_is_given_up() -> None:
    pauses = [after_failure(_delivery(n, 1000), 1000.0)[1] - 1000.0 for n in range(9)]
    assert pauses == [5.0, 20.0, 80.0, 320.0, 1280.0, 5120.0, 20480.0, 21600.0, 21600.0]
    late = 1000.0 + GIVE_UP_AFTER_S - 10.0
    assert after_failure(_delivery(20, 1000), late) == (DeliveryState.GIVEN_UP, late)
    assert after_failure(_delivery(0, 1000), late)[0] is DeliveryState.PENDING


async def test_old_events_are_forgotten_with_their_deliveries(
    store: Store, receiver: Receiver
) -> None:
    await ended(store)
    async with telling(store, receiver.settings()):
        await deliveries(store, 1, DeliveryState.DELIVERED)
    await store.webhooks.forget_old()
    assert len(await store.webhooks.newest(9)) == 1
    async with store._database.write() as connection:
        old = int(time.time()) - KEPT_S - 1
        await connection.execute(update(webhook_events).values(created_at=old))
    await store.webhooks.forget_old()
    assert await store.webhooks.newest(9) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "ftp://x/y"}, "http or https"),
        ({"url": "https:///y"}, "http or https"),
        ({"url": "https://me:secret@x/y"}, "user name"),
        ({"secret": "plain"}, "whsec_"),
        ({"secret": "whsec_c2hvcnQ="}, "16 bytes"),
        ({"secret": "whsec_not base64 at all, not at all"}, "whsec_"),
        ({"events": ["batch.begun"]}, "fine_tuning.job.succeeded"),
        ({"events": []}, "at least 1"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_entry_is_refused(settings: dict[str, Any], message: str) -> None:
    entry = {"url": "https://example.com/hook", "secret": SECRET}
    Config.model_validate({"webhooks": [entry]})
    with pytest.raises(ValidationError, match=message):
        Config.model_validate({"webhooks": [{**entry, **settings}]})
    with pytest.raises(ValidationError, match="appears twice"):
        Config.model_validate({"webhooks": [entry, entry]})
