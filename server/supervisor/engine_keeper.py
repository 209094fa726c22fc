"""All engine workers of a supervisor: the configured models' and the full fine-tunes'."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from server.config import Config, ModelEntry
from server.engines.client import EngineConnection
from server.store.records import Model
from server.supervisor.arriving import Arriving
from server.supervisor.engine_slot import STOP_GRACE_S, EngineSlot
from server.supervisor.engine_spec import ServedModel
from server.supervisor.remote_slot import RemoteSlot, RemoteWorker
from server.supervisor.workplace import Workplace
from workers.contract.hello import Hello
from workers.contract.messages import Done, Failed, FailureKind, LoadAdapter, UnloadAdapter
from workers.contract.parts import AdapterRef

logger = logging.getLogger(__name__)

REFRESH_INTERVAL_S = 1.0


class EngineRefusalError(Exception):
    """The engine will not serve this adapter, however often it is asked."""


class Slot(Protocol):
    """One worker, here or elsewhere."""

    ready: asyncio.Event

    @property
    def connection(self) -> EngineConnection | None:
        """To a worker that is ready; None while there is none."""
        ...

    async def run(self) -> None:
        """Until cancelled; the worker is not offered any more then."""
        ...


class EngineKeeper:
    def __init__(self, config: Config, workplace: Workplace, arriving: Arriving) -> None:
        self.registered = asyncio.Event()
        """The configured models are in the store."""
        self._config = config
        self._arriving = arriving
        self._workplace = workplace
        self._slots: dict[str, list[tuple[Slot, asyncio.Task[None]]]] = {}
        self._coming: dict[str, asyncio.Task[None]] = {}
        """Models on their way from a hub."""
        self._expected: set[str] = set()
        """Full fine-tunes that are about to be registered."""

    async def run(self) -> None:
        """Until cancelled; all workers are gone then, unless they are left to another."""
        try:
            for entry in self._config.models:
                self._open_remote(entry)
                if entry.hub is None:
                    self._open_replicas(entry, entry.path)
                else:
                    self._coming[entry.id] = asyncio.create_task(self._open_when_here(entry))
            await self._workplace.patience.repeat(self._follow, REFRESH_INTERVAL_S)
        finally:
            for task in self._coming.values():
                task.cancel()
            self._workplace.departure.is_leaving = True
            await asyncio.shield(self._close(list(self._slots)))

    async def _follow(self) -> None:
        await self._follow_fine_tunes()
        await self._follow_deletions()
        await self._workplace.rows.settle()
        await asyncio.sleep(0)  # whoever was opened takes its worker now
        coming = [model for model, task in self._coming.items() if not task.done()]
        await self._end_others(coming)

    async def _end_others(self, but: Collection[str]) -> None:
        """Workers of an earlier supervisor that serve nothing that is wanted."""
        for worker in self._workplace.left.take_others(but):
            logger.warning("ending a worker", extra={"engine": worker.files.engine_id})
            await self._workplace.rows.remove(worker.files.engine_id)
            await worker.process.terminate(STOP_GRACE_S)
            worker.files.remove()

    async def _open_when_here(self, entry: ModelEntry) -> None:
        """Jobs train on the directory that is registered, so on the files that are served."""
        path = str(await self._arriving.directory(entry))
        await self.registered.wait()
        put = self._workplace.store.models.put_base
        await self._workplace.patience.insist(put, entry.id, path, entry.owned_by, int(time.time()))
        self._open_replicas(entry, path)

    def _open_replicas(self, entry: ModelEntry, path: str) -> None:
        for number in range(1, entry.replicas + 1):
            self._open(entry.id, path, entry, number)

    async def _follow_fine_tunes(self) -> None:
        """Full fine-tunes have workers while they are used: as many as are allowed, the last used
        first. One that is generating is not stopped for another; one that was deleted is."""
        limits = self._config.limits
        listed = await self._workplace.store.models.list_whole_fine_tunes()
        kept = self._expected | {model.id for model, _ in listed if self._is_busy(model.id)}
        used_since = time.time() - limits.fine_tune_idle_s
        wanted = [m for m, at in listed if at > used_since and m.id not in kept]
        wanted = wanted[: max(limits.max_fine_tune_engines - len(kept), 0)]
        configured = {entry.id for entry in self._config.models}
        surplus = self._slots.keys() - {model.id for model in wanted} - configured - kept
        await self._close(list(surplus))
        for model in wanted:
            if model.id not in self._slots:
                self._open_fine_tune(model)

    def _is_busy(self, model_id: str) -> bool:
        reports = (connection.stats for connection in self._connections(model_id))
        return any(stats.running + stats.waiting > 0 for stats in reports)

    def _open_fine_tune(self, model: Model) -> None:
        entry = self._config.model(model.base)
        if entry is not None:
            self._open(model.id, model.path, entry)

    def _open(self, model_id: str, path: str, entry: ModelEntry, number: int = 1) -> None:
        served = ServedModel(model_id, path, entry, self._config.templates)
        self._keep(model_id, EngineSlot(served, self._workplace, number))

    def _open_remote(self, entry: ModelEntry) -> None:
        for number, address in enumerate(entry.addresses, 1):
            assert entry.token_file is not None, "the entry has checked it"
            slot = RemoteSlot(
                RemoteWorker(entry.id, address, Path(entry.token_file), entry.ca_file, number),
                self._workplace,
                partial(self.hello, entry.id),
            )
            self._keep(entry.id, slot)

    def hello(self, model_id: str) -> Hello | None:
        """What one of the model's workers says of itself; those of this host come first."""
        slots = [slot for slot, _ in self._slots.get(model_id, [])]
        slots.sort(key=lambda slot: isinstance(slot, RemoteSlot))
        return next((slot.connection.hello for slot in slots if slot.connection is not None), None)

    def _keep(self, model_id: str, slot: Slot) -> None:
        task = asyncio.create_task(slot.run(), name=f"engine {model_id}")
        self._slots.setdefault(model_id, []).append((slot, task))

    async def _follow_deletions(self) -> None:
        """An adapter that was deleted while a worker was out of reach, or that a late request
        brought back, goes."""
        connections = [c for model_id in self._slots for c in self._connections(model_id)]
        resident = {name for connection in connections for name in connection.stats.adapters}
        if not resident:
            return
        deleted = await self._workplace.store.models.list_deleted(resident)
        for connection in connections:
            for name in deleted.intersection(connection.stats.adapters):
                connection.tell(partial(UnloadAdapter, name=name))

    async def _close(self, model_ids: Sequence[str]) -> None:
        closing = [pair for model_id in model_ids for pair in self._slots.pop(model_id, [])]
        for _, task in closing:
            task.cancel()
        await asyncio.gather(*(task for _, task in closing), return_exceptions=True)

    async def serve_fine_tune(self, model: Model, timeout_s: float) -> None:
        """Starts a worker for a full fine-tune that is not registered yet, and waits until it is
        ready. Raises TimeoutError; the worker is stopped then."""
        self._expected.add(model.id)
        try:
            if model.id not in self._slots:
                self._open_fine_tune(model)
            async with asyncio.timeout(timeout_s):
                await self._slots[model.id][0][0].ready.wait()
        except BaseException:
            self.abandon(model.id)
            raise

    def abandon(self, model_id: str) -> None:
        """The fine-tune will not be registered (or is, by now): it is no longer expected."""
        self._expected.discard(model_id)

    async def load_adapter(self, engine_model: str, adapter: AdapterRef, timeout_s: float) -> None:
        """Has every live replica load the adapter, waiting for one if there is none. One that dies
        meanwhile, or joins later, loads it at the first request for it. Raises EngineRefusalError,
        TimeoutError."""
        loaded: set[EngineConnection] = set()
        async with asyncio.timeout(timeout_s):
            while True:
                live = [c for c in self._connections(engine_model) if not c.leaving]
                waiting = [c for c in live if c not in loaded]
                if loaded.intersection(live) and not waiting:
                    return
                answers = await asyncio.gather(*(_load(c, adapter) for c in waiting))
                loaded |= {c for c, done in zip(waiting, answers, strict=True) if done}
                if not all(answers) or not waiting:
                    await asyncio.sleep(REFRESH_INTERVAL_S / 4)

    def _connections(self, engine_model: str) -> list[EngineConnection]:
        found = (slot.connection for slot, _ in self._slots.get(engine_model, []))
        return [connection for connection in found if connection is not None]


async def _load(connection: EngineConnection, adapter: AdapterRef) -> bool:
    """False when the engine could not say. Raises EngineRefusalError."""
    answer = await connection.ask(lambda number: LoadAdapter(number, adapter))
    if isinstance(answer, Done):
        return True
    if isinstance(answer, Failed) and answer.kind in (
        FailureKind.ADAPTER_INVALID,
        FailureKind.ADAPTER_NOT_FOUND,
        FailureKind.UNSUPPORTED,
    ):
        raise EngineRefusalError(answer.message)
    logger.warning("adapter not loaded", extra={"engine": connection.engine_id})
    return False
