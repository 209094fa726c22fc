"""How responses are kept: together, before they are sent, and not at any price."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from server.errors import ApiError
from server.keeping import MAX_STORED_BYTES, Keeper
from server.store import open_store
from server.store.responses import Responses, StoredResponse
from tests.gateway.conftest import MODEL, Gateway


class _Counted:
    """Counts the transactions of real responses."""

    def __init__(self, responses: Responses) -> None:
        self._responses = responses
        self.sizes: list[int] = []

    async def add(self, kept: Sequence[StoredResponse]) -> None:
        self.sizes.append(len(kept))
        await self._responses.add(kept)


def row(response_id: str) -> StoredResponse:
    now = int(time.time())
    return StoredResponse(
        response_id, "proj", now, now + 100, None, MODEL, "completed", "{}", "[]", 0, 4
    )


async def test_responses_that_end_together_are_written_together(tmp_path: Path) -> None:
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}")
    await store.projects.ensure("proj", "P")
    counted = _Counted(store.responses)
    keeper = Keeper(counted.add, days=1)
    told: list[ApiError | None] = []
    for number in range(100):
        keeper.keep(row(f"resp_{number}"), 4, told.append)
    await keeper.close()
    assert told == [None] * 100
    assert counted.sizes == [64, 36]
    assert await store.responses.find("proj", "resp_99") == row("resp_99")
    await store.close()


async def test_what_is_written_together_is_not_large(tmp_path: Path) -> None:
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}")
    await store.projects.ensure("proj", "P")
    counted = _Counted(store.responses)
    keeper = Keeper(counted.add, days=1)
    told: list[ApiError | None] = []
    third = MAX_STORED_BYTES // 3
    for number, size in enumerate([third, third, third, MAX_STORED_BYTES, 1]):
        keeper.keep(row(f"resp_{number}"), size, told.append)
    await keeper.close()
    assert told == [None] * 5
    assert counted.sizes == [3, 1, 1]
    await store.close()


async def test_what_one_caller_does_is_nothing_to_the_next(tmp_path: Path) -> None:
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}")
    await store.projects.ensure("proj", "P")
    keeper = Keeper(store.responses.add, days=1)
    told = asyncio.Event()

    def fail(_error: ApiError | None) -> None:
        raise ValueError("a fault")

    keeper.keep(row("resp_1"), 4, fail)
    keeper.keep(row("resp_2"), 4, lambda _error: told.set())
    await asyncio.wait_for(told.wait(), 120)
    await keeper.close()
    await store.close()


def test_an_answer_does_not_wait_for_a_locked_store_for_ever(
    gateway: Gateway, raw: httpx.Client
) -> None:
    def ask(**fields: object) -> httpx.Response:
        return raw.post("/responses", json={"model": MODEL, "input": "say hello", **fields})

    holder = sqlite3.connect(gateway.config.data / "tuneyard.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(4) as threads:
        by_default = threads.submit(ask)
        demanded = threads.submit(ask, store=True)
        streamed = threads.submit(ask, store=True, stream=True)
        unkept = threads.submit(ask, store=False)
        assert unkept.result().json()["status"] == "completed"
        answer = by_default.result()
        assert answer.status_code == 200
        assert answer.json()["store"] is False, "it says what it could not do"
        assert demanded.result().status_code == 503
        assert "retry-after" in demanded.result().headers
        assert "event: response.failed" in streamed.result().text
    holder.execute("ROLLBACK")
    holder.close()
    assert raw.get(f"/responses/{answer.json()['id']}").status_code == 404
    assert ask(store=True).json()["store"] is True
