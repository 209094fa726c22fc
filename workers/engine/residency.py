"""Which adapters are resident in an engine that loads and drops them when told (vLLM, SGLang).

Adapters are loaded on first use or on request, counted while sequences use them, and dropped
least-recently-used when unused and the place is needed. The engine itself never evicts: it is given
as many places as this pool hands out.

A name stands for one set of files for the life of the process. Engines key their prefix cache by
it, so the same name with other files would give stale answers.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import msgspec

from workers.contract.messages import FailureKind, Stats
from workers.contract.parts import AdapterRef
from workers.engine.backend import RefusedError


class Adapters(Protocol):
    """An engine's own adapter calls."""

    async def check(self, adapter: AdapterRef) -> None:
        """Looks at the files only. Raises RefusedError."""
        ...

    async def load(self, adapter: AdapterRef) -> None:
        """Raises RefusedError."""
        ...

    async def drop(self, adapter: AdapterRef) -> None:
        """Frees an adapter that nobody uses."""
        ...


class _Resident:
    __slots__ = ("leaving", "ref", "users")

    def __init__(self, ref: AdapterRef) -> None:
        self.ref = ref
        self.users = 0
        self.leaving = False
        """Asked to go: new users wait until it is gone, and load it anew."""


class AdapterPool:
    def __init__(self, capacity: int, engine: Adapters, changed: Callable[[], None]) -> None:
        self._capacity = capacity
        self._engine = engine
        self._changed = changed
        self._residents: OrderedDict[str, _Resident] = OrderedDict()
        self._known: dict[str, AdapterRef] = {}
        self._uids: dict[int, str] = {}
        self._changing = asyncio.Lock()
        self._released = asyncio.Event()
        self.hits = self.loads = self.evictions = 0

    @property
    def names(self) -> list[str]:
        return list(self._residents)

    async def acquire(self, ref: AdapterRef) -> None:
        """Makes the adapter resident and counts a user of it. Raises RefusedError."""
        resident = self._residents.get(ref.name)
        if resident is not None and not resident.leaving:
            self._check_identity(ref)
            self.hits += 1
            self._count(resident)
            return
        # A cancelled request must not leave the engine with an adapter the pool does not know of.
        taking = asyncio.ensure_future(self._take(ref))
        try:
            await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(lambda done: self._give_back(done, ref.name))
            raise

    def release(self, name: str) -> None:
        resident = self._residents.get(name)
        if resident is not None:
            resident.users -= 1
            if not resident.users:
                self._released.set()

    async def load(self, adapter: AdapterRef) -> None:
        """Makes the adapter resident. Raises RefusedError."""
        async with self._changing:
            await self._ensure(adapter)

    async def unload(self, name: str) -> None:
        """Returns once nothing uses the adapter and it is gone."""
        resident = self._residents.get(name)
        if resident is None:
            return
        resident.leaving = True
        await self._wait_unused(resident)
        async with self._changing:
            if self._residents.get(name) is resident:
                await self._remove(resident)
                self._changed()

    async def _take(self, ref: AdapterRef) -> None:
        async with self._changing:
            self._count(await self._ensure(ref))

    def _give_back(self, taking: asyncio.Future[None], name: str) -> None:
        if not taking.cancelled() and taking.exception() is None:
            self.release(name)

    def _count(self, resident: _Resident) -> None:
        resident.users += 1
        self._residents.move_to_end(resident.ref.name)

    async def _wait_unused(self, resident: _Resident) -> None:
        while resident.users:
            await self._next_release()

    async def _next_release(self) -> None:
        self._released.clear()
        await self._released.wait()

    async def _ensure(self, ref: AdapterRef) -> _Resident:
        self._check_identity(ref)
        resident = self._residents.get(ref.name)
        if resident is not None and resident.leaving:
            await self._wait_unused(resident)
            await self._remove(resident)
            resident = None
        if resident is not None:
            return resident
        # Checked first: an adapter that cannot be served must not cost another its place.
        await self._engine.check(ref)
        await self._make_room()
        await self._engine.load(ref)
        self._known[ref.name] = ref
        self._uids[ref.uid] = ref.name
        self.loads += 1
        resident = self._residents[ref.name] = _Resident(ref)
        self._changed()
        return resident

    async def _make_room(self) -> None:
        while len(self._residents) >= self._capacity:
            unused = next((r for r in self._residents.values() if not r.users), None)
            if unused is not None:
                await self._remove(unused)
                self.evictions += 1
                continue
            await self._next_release()

    async def _remove(self, resident: _Resident) -> None:
        # Gone from the table first: nobody may take up an adapter that is being dropped.
        del self._residents[resident.ref.name]
        await self._engine.drop(resident.ref)

    def _check_identity(self, ref: AdapterRef) -> None:
        known = self._known.get(ref.name, ref)
        if known != ref or self._uids.get(ref.uid, ref.name) != ref.name:
            raise RefusedError(
                FailureKind.ADAPTER_INVALID,
                f"Adapter {ref.name!r} was loaded from other files before; a new version needs a "
                "new name and id.",
                "model",
            )


def with_adapters(stats: Stats, pool: AdapterPool | None) -> Stats:
    """`stats` with what the pool has counted; an engine without one has no adapters."""
    if pool is None:
        return stats
    return msgspec.structs.replace(
        stats,
        adapters=pool.names,
        adapter_hits=pool.hits,
        adapter_loads=pool.loads,
        adapter_evictions=pool.evictions,
    )
