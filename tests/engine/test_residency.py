"""Adapters of an engine that loads and drops when told."""

from __future__ import annotations

import asyncio

import pytest

from workers.contract.messages import FailureKind
from workers.contract.parts import AdapterRef
from workers.engine.backend import RefusedError
from workers.engine.residency import AdapterPool


class _Engine:
    def __init__(self) -> None:
        self.held: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def check(self, adapter: AdapterRef) -> None:
        if adapter.path == "/missing":
            raise RefusedError(FailureKind.ADAPTER_NOT_FOUND, "missing")

    async def load(self, adapter: AdapterRef) -> None:
        await self.gate.wait()
        if adapter.path == "/bad":
            raise RefusedError(FailureKind.ADAPTER_INVALID, "bad")
        self.held.append(adapter.name)

    async def drop(self, adapter: AdapterRef) -> None:
        self.held.remove(adapter.name)

    def pool(self, capacity: int) -> AdapterPool:
        return AdapterPool(capacity, self, lambda: None)


def _ref(number: int, path: str = "/files") -> AdapterRef:
    return AdapterRef(f"a{number}", number, f"{path}")


async def test_an_unused_adapter_makes_room_least_recently_used_first() -> None:
    engine = _Engine()
    pool = engine.pool(2)
    for number in (1, 2, 1):
        await pool.acquire(_ref(number))
        pool.release(f"a{number}")
    await pool.acquire(_ref(3))
    assert engine.held == ["a1", "a3"]
    assert (pool.hits, pool.loads, pool.evictions) == (1, 3, 1)


async def test_a_request_waits_for_a_place_while_all_are_in_use() -> None:
    engine = _Engine()
    pool = engine.pool(1)
    await pool.acquire(_ref(1))
    waiting = asyncio.ensure_future(pool.acquire(_ref(2)))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert engine.held == ["a1"]
    await pool.acquire(_ref(1))
    pool.release("a1")
    pool.release("a1")
    await asyncio.wait_for(waiting, 60)
    assert engine.held == ["a2"]


async def test_unload_waits_for_the_last_user_and_a_later_request_loads_anew() -> None:
    engine = _Engine()
    pool = engine.pool(2)
    await pool.acquire(_ref(1))
    unloading = asyncio.ensure_future(pool.unload("a1"))
    await asyncio.sleep(0)
    again = asyncio.ensure_future(pool.acquire(_ref(1)))
    await asyncio.sleep(0.01)
    assert not unloading.done()
    assert not again.done()
    pool.release("a1")
    await asyncio.wait_for(asyncio.gather(unloading, again), 60)
    assert engine.held == ["a1"]
    assert pool.loads == 2


async def test_a_name_or_an_id_is_never_used_for_other_files() -> None:
    pool = _Engine().pool(2)
    await pool.load(_ref(1))
    await pool.unload("a1")
    for other in (_ref(1, "/other"), AdapterRef("b", 1, "/files")):
        with pytest.raises(RefusedError) as refusal:
            await pool.acquire(other)
        assert refusal.value.kind is FailureKind.ADAPTER_INVALID


async def test_an_adapter_that_cannot_be_loaded_leaves_its_place_free() -> None:
    engine = _Engine()
    pool = engine.pool(1)
    with pytest.raises(RefusedError):
        await pool.acquire(_ref(1, "/bad"))
    await asyncio.wait_for(pool.acquire(_ref(2)), 60)
    assert pool.names == ["a2"]


async def test_a_cancelled_request_gives_its_place_back_once_loaded() -> None:
    engine = _Engine()
    engine.gate.clear()
    pool = engine.pool(1)
    taking = asyncio.ensure_future(pool.acquire(_ref(1)))
    await asyncio.sleep(0.01)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    engine.gate.set()
    await asyncio.wait_for(pool.acquire(_ref(2)), 60)
    assert engine.held == ["a2"]


async def test_an_adapter_whose_files_are_refused_costs_no_other_its_place() -> None:
    engine = _Engine()
    pool = engine.pool(1)
    await pool.load(_ref(1))
    with pytest.raises(RefusedError):
        await pool.load(_ref(2, "/missing"))
    assert engine.held == ["a1"]
