"""Which engine workers there are, and which of them takes a request.

The store's `engines` table is asked every `REFRESH_INTERVAL_S`, and at once when a model has no
connection. It brings new workers, and says by a row's end which were ended on purpose; whether one
lives and answers, its connection says. While the table cannot be read, the pool keeps what it has.
How a replica is chosen is `server.engines.routing`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from server.engines.client import EngineConnection, EngineUnreachable
from server.engines.connecting import connect_engine
from server.engines.routing import choose
from server.engines.silence import TICK_S, listen
from server.errors import Unavailable
from server.store.records import Engine
from workers.contract.hello import Hello
from workers.contract.messages import FailureKind
from workers.contract.parts import AdapterRef

logger = logging.getLogger(__name__)

REFRESH_INTERVAL_S = 0.5
CONNECT_TIMEOUT_S = 5.0
MAX_RETRY_INTERVAL_S = 4.0
"""Between tries to connect to a worker that a row promises and that does not answer."""


class EngineDirectory(Protocol):
    async def list_ready(self) -> tuple[Engine, ...]: ...


class Conversation(Protocol):
    """What a request belongs to; asked only where there is a choice."""

    @property
    def affinity(self) -> str | None: ...


@dataclass(slots=True)
class _Replica:
    engine: Engine
    connection: EngineConnection | None = None
    opening: asyncio.Task[None] | None = None
    num_failures: int = 0
    """To connect, since it last answered."""
    retry_at: float = 0.0
    """By the monotonic clock."""


class EnginePool:
    """Owns one connection per engine worker. `close` must be called."""

    def __init__(
        self,
        directory: EngineDirectory,
        max_requests_per_model: int,
        ca_files: Mapping[str, Path | None] = MappingProxyType({}),
    ) -> None:
        """`ca_files`: what vouches for a model's engines at `tls:` addresses, by model."""
        self._directory = directory
        self._ca_files = ca_files
        self._max_requests = max_requests_per_model
        self._replicas: dict[str, _Replica] = {}
        self._by_model: dict[str, list[EngineConnection]] = {}
        """The replicas' connections, some of which may have closed since."""
        self._suspects: set[EngineConnection] = set()
        self._draining: list[EngineConnection] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._can_read = True
        self._closing = asyncio.Event()
        self.num_choices: Counter[tuple[str, str]] = Counter()
        """Requests given to a replica, by model and reason."""
        self.num_retries: Counter[tuple[str, str]] = Counter()
        """Requests that were given to another replica, by model and what became of the first."""

    async def start(self) -> None:
        await self.refresh()
        self._tasks = [
            asyncio.create_task(self._repeat(REFRESH_INTERVAL_S, self.refresh)),
            asyncio.create_task(self._repeat(TICK_S, self._listen)),
        ]

    async def close(self) -> None:
        """A query under way is let finish: its connection belongs to the store."""
        self._closing.set()
        await asyncio.gather(*self._tasks)
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

    def any_usable(self, model_id: str) -> EngineConnection | None:
        """Any connection to an engine of the model that answers."""
        for connection in self._by_model.get(model_id, ()):
            if not (connection.closed or connection.hangs):
                return connection
        return None

    def hello(self, model_id: str) -> Hello | None:
        """What an engine of the model says of itself; None while no connection is open."""
        connection = self.any_usable(model_id)
        return None if connection is None else connection.hello

    @property
    def hanging(self) -> list[EngineConnection]:
        """To workers that say nothing any more."""
        return [connection for connection in self.connections() if connection.hangs]

    @property
    def draining(self) -> list[EngineConnection]:
        """To workers that are to go, while requests are under way there."""
        leaving = [connection for connection in self.connections() if connection.leaving]
        return leaving + [connection for connection in self._draining if not connection.closed]

    async def ready(self, model_id: str) -> EngineConnection:
        """Any connection to an engine of the model that answers. Raises Unavailable."""
        if (usable := self.any_usable(model_id)) is None:
            await self.refresh()
            opening = [
                replica.opening
                for replica in self._replicas.values()
                if replica.opening is not None and replica.engine.model_id == model_id
            ]
            if opening:
                await asyncio.wait(opening, timeout=CONNECT_TIMEOUT_S)
            usable = self.any_usable(model_id)
        if usable is None:
            raise self._unavailable(model_id, "The model is not ready yet. Please retry.")
        return usable

    def pick(
        self,
        model_id: str,
        adapter: AdapterRef | None = None,
        conversation: Conversation | None = None,
        avoid: Collection[str] = (),
    ) -> EngineConnection:
        """The replica for one more request; `avoid` names engines that just failed it. Raises
        Unavailable."""
        connections = [
            connection
            for connection in self._by_model.get(model_id, ())
            if not (
                connection.closed
                or connection.leaving
                or connection.hangs
                or connection.engine_id in avoid
            )
        ]
        if len(connections) > 1 and self._suspects:
            sound = [c for c in connections if c not in self._suspects]
            connections = sound or connections
        if not connections:
            raise self._unavailable(model_id, "No engine is ready for the model. Please retry.")
        if len(connections) == 1:
            index, reason = choose(connections)
        else:
            index, reason = choose(
                connections,
                None if adapter is None else adapter.name,
                None if conversation is None else conversation.affinity,
            )
        self.num_choices[model_id, reason] += 1
        return connections[index]

    def pick_again(
        self,
        model_id: str,
        adapter: AdapterRef | None,
        conversation: Conversation | None,
        failed_at: Collection[str],
        kind: FailureKind,
    ) -> EngineConnection:
        """Another replica for a request that one could not serve. Raises Unavailable."""
        connection = self.pick(model_id, adapter, conversation, failed_at)
        self.num_retries[model_id, kind] += 1
        return connection

    def check_room(self, model_id: str, requests: int) -> None:
        """Raises Unavailable when `requests` more would be too many for the model's engines."""
        under_way = 0
        for connection in self._by_model.get(model_id, ()):
            if not connection.closed:
                under_way += connection.num_requests
        if under_way + requests > self._max_requests:
            raise Unavailable("The engines of this model are overloaded. Please retry later.")

    def _unavailable(self, model_id: str, message: str) -> Unavailable:
        if any(connection.hangs for connection in self.connections(model_id)):
            message = "The engine of the model does not answer at the moment. Please retry."
        return Unavailable(message, retry_after_s=2.0)

    async def refresh(self) -> None:
        """Brings the connections in line with the store's list, if that can be had."""
        try:
            ready = await self._directory.list_ready()
        except Exception as error:
            if self._can_read:
                logger.error("the list of engines cannot be read", extra={"reason": str(error)})
            self._can_read = False
            return
        self._can_read = True
        listed = {engine.id: engine for engine in ready}
        gone = [e for e, r in self._replicas.items() if not _same_worker(r.engine, listed.get(e))]
        for engine_id in gone:
            self._retire(self._replicas.pop(engine_id))
        for engine in listed.values():
            replica = self._replicas.setdefault(engine.id, _Replica(engine))
            if replica.connection is not None and replica.connection.closed:
                replica.connection = None
            is_open = replica.connection is not None or replica.opening is not None
            if not is_open and time.monotonic() >= replica.retry_at:
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
        for connection in [c for c in self._draining if c.num_requests == 0]:
            connection.close()
            self._draining.remove(connection)

    async def _open(self, replica: _Replica) -> None:
        engine = replica.engine
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                replica.connection = await connect_engine(
                    engine.id,
                    engine.model_id,
                    engine.address,
                    engine.token,
                    self._ca_files.get(engine.model_id),
                )
            replica.num_failures = 0
            self._index()
            logger.info("engine connected", extra={"engine": engine.id, "model": engine.model_id})
            for warning in replica.connection.hello.warnings:
                logger.warning("%s: %s", engine.model_id, warning)
        except (EngineUnreachable, TimeoutError) as error:
            self._note_failure(replica, str(error) or "no answer")
        finally:
            replica.opening = None

    def _note_failure(self, replica: _Replica, reason: str) -> None:
        if replica.num_failures == 0:
            extra = {"engine": replica.engine.id, "reason": reason}
            logger.warning("engine not reachable", extra=extra)
        wait_s = min(REFRESH_INTERVAL_S * 2**replica.num_failures, MAX_RETRY_INTERVAL_S)
        replica.num_failures = min(replica.num_failures + 1, 10)
        replica.retry_at = time.monotonic() + wait_s

    async def _repeat(self, interval_s: float, work: Callable[[], Awaitable[None]]) -> None:
        """Until the pool is closed."""
        while not self._closing.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._closing.wait()
            await work()

    async def _listen(self) -> None:
        self._suspects = listen([*self.connections(), *self._draining])


def _same_worker(ours: Engine, listed: Engine | None) -> bool:
    return listed is not None and (listed.address, listed.pid) == (ours.address, ours.pid)
