"""Which engine workers there are, and which of them takes a request.

The store's `engines` table is asked every `REFRESH_INTERVAL_S`, and at once when a model has no
connection. Requests go to the replica with the fewest under way; those with the same affinity go to
the same replica while it is not much busier than the others.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from server.engines.client import EngineConnection, EngineUnreachable, connect_engine
from server.errors import Unavailable
from server.store.records import Engine

logger = logging.getLogger(__name__)

REFRESH_INTERVAL_S = 0.5
CONNECT_TIMEOUT_S = 5.0
AFFINITY_SLACK = 8
"""How many requests more than the idlest replica an affine one may have."""


class EngineDirectory(Protocol):
    async def list_ready(self) -> tuple[Engine, ...]: ...


@dataclass(slots=True)
class _Replica:
    engine: Engine
    connection: EngineConnection | None = None
    opening: asyncio.Task[None] | None = None


class EnginePool:
    """Owns one connection per engine worker. `close` must be called."""

    def __init__(self, directory: EngineDirectory, max_requests_per_model: int) -> None:
        self._directory = directory
        self._max_requests = max_requests_per_model
        self._replicas: dict[str, _Replica] = {}
        self._by_model: dict[str, list[EngineConnection]] = {}
        """The replicas' connections, some of which may have closed since."""
        self._draining: list[EngineConnection] = []
        self._refresher: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def start(self) -> None:
        await self.refresh()
        self._refresher = asyncio.create_task(self._keep_refreshing())

    async def close(self) -> None:
        """A query under way is let finish: its connection belongs to the store."""
        self._closing.set()
        if self._refresher is not None:
            await self._refresher
        tasks = [r.opening for r in self._replicas.values() if r.opening is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in [*self.connections(), *self._draining]:
            connection.close()

    def connections(self, model_id: str | None = None) -> list[EngineConnection]:
        """The open connections, of one engine model or of all."""
        if model_id is not None:
            return [c for c in self._by_model.get(model_id, ()) if not c.closed]
        return [c for connections in self._by_model.values() for c in connections if not c.closed]

    async def ready(self, model_id: str) -> EngineConnection:
        """Any open connection to an engine of the model. Raises Unavailable."""
        if not (connections := self.connections(model_id)):
            await self.refresh()
            opening = [
                replica.opening
                for replica in self._replicas.values()
                if replica.opening is not None and replica.engine.model_id == model_id
            ]
            if opening:
                await asyncio.wait(opening, timeout=CONNECT_TIMEOUT_S)
            connections = self.connections(model_id)
        if not connections:
            raise Unavailable("The model is not ready yet. Please retry.", retry_after_s=2.0)
        return connections[0]

    def pick(
        self, model_id: str, affinity: str | None = None, avoid: Collection[str] = ()
    ) -> EngineConnection:
        """The replica for one more request; `avoid` names engines that just failed it. Raises
        Unavailable."""
        connections = self.connections(model_id)
        if len(connections) > 1 or avoid:
            connections = [c for c in connections if c.engine_id not in avoid]
        if not connections:
            raise Unavailable("No engine is ready for the model. Please retry.", retry_after_s=2.0)
        if len(connections) == 1:
            return connections[0]
        idlest = min(connections, key=_load)
        if affinity is not None:
            favourite = max(connections, key=lambda c: _weight(affinity, c.engine_id))
            if favourite.load <= idlest.load + AFFINITY_SLACK:
                return favourite
        return idlest

    def check_room(self, model_id: str, requests: int) -> None:
        """Raises Unavailable when `requests` more would be too many for the model's engines."""
        if sum([c.load for c in self.connections(model_id)]) + requests > self._max_requests:
            raise Unavailable("The engines of this model are overloaded. Please retry later.")

    async def refresh(self) -> None:
        """Brings the connections in line with the store's list."""
        listed = {engine.id: engine for engine in await self._directory.list_ready()}
        gone = [e for e, r in self._replicas.items() if not _same_worker(r.engine, listed.get(e))]
        for engine_id in gone:
            self._retire(self._replicas.pop(engine_id))
        for engine in listed.values():
            replica = self._replicas.setdefault(engine.id, _Replica(engine))
            if replica.connection is not None and replica.connection.closed:
                replica.connection = None
            if replica.connection is None and replica.opening is None:
                replica.opening = asyncio.create_task(self._open(replica))
        self._index()
        self._sweep_drained()

    def _index(self) -> None:
        self._by_model = {}
        for replica in self._replicas.values():
            if replica.connection is not None:
                self._by_model.setdefault(replica.engine.model_id, []).append(replica.connection)

    def _retire(self, replica: _Replica) -> None:
        """No new requests; the connection is closed once those under way have ended."""
        if replica.opening is not None:
            replica.opening.cancel()
        if replica.connection is not None:
            self._draining.append(replica.connection)

    def _sweep_drained(self) -> None:
        for connection in [c for c in self._draining if c.load == 0]:
            connection.close()
            self._draining.remove(connection)

    async def _open(self, replica: _Replica) -> None:
        engine = replica.engine
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                replica.connection = await connect_engine(
                    engine.id, engine.model_id, engine.address, engine.token
                )
            self._index()
            logger.info("engine connected", extra={"engine": engine.id, "model": engine.model_id})
            if (difference := replica.connection.hello.template_difference) is not None:
                logger.warning("%s: %s", engine.model_id, difference)
        except (EngineUnreachable, TimeoutError) as error:
            logger.warning(
                "engine not reachable", extra={"engine": engine.id, "reason": str(error)}
            )
        finally:
            replica.opening = None

    async def _keep_refreshing(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_INTERVAL_S):
                    await self._closing.wait()
            try:
                await self.refresh()
            except Exception:
                logger.exception("the list of engines could not be read")


def _same_worker(ours: Engine, listed: Engine | None) -> bool:
    return listed is not None and (listed.address, listed.pid) == (ours.address, ours.pid)


def _load(connection: EngineConnection) -> int:
    return connection.load


def _weight(affinity: str, engine_id: str) -> bytes:
    """Rendezvous hashing: an engine that comes or goes moves only its own share."""
    return hashlib.blake2b(f"{affinity}\0{engine_id}".encode(), digest_size=8).digest()
