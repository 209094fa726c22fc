"""The rows that tell gateways of a supervisor's engines, written as soon as the store allows it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from server.store import Store
from server.store.records import Engine, EngineState
from server.supervisor.patience import Patience, passes


class EngineRows:
    def __init__(self, supervisor_id: str, store: Store, patience: Patience) -> None:
        self.supervisor_id = supervisor_id
        self._store = store
        self._patience = patience
        self._states: dict[str, EngineState] = {}
        """As written."""
        self._ended: set[str] = set()
        """Whose rows are still to be removed."""

    async def put(self, engine: Engine, state: EngineState) -> bool:
        """Whether the row says so by now."""
        if self._states.get(engine.id) is state:
            return True
        try:
            await self._store.engines.put(replace(engine, state=state))
        except Exception as error:
            if not passes(error):
                raise
            self._patience.met("engine rows", error)
            return False
        self._patience.over("engine rows")
        self._states[engine.id] = state
        return True

    async def remove(self, engine_id: str) -> None:
        """At once if the store allows it, else later: the engine need not wait for it to end."""
        self._states.pop(engine_id, None)
        self._ended.add(engine_id)
        try:
            await self.settle()
        except Exception as error:
            if not passes(error):
                raise
            self._patience.met("engine rows", error)

    async def settle(self) -> None:
        """Removes what could not be removed before."""
        for engine_id in list(self._ended):
            await self._store.engines.remove(engine_id)
            self._ended.discard(engine_id)

    async def take_over(self, predecessor: str, living: Collection[str]) -> None:
        await self._store.engines.take_over(predecessor, self.supervisor_id, living)

    async def beat(self) -> None:
        await self._store.engines.beat(self.supervisor_id)
