"""Adapters that model entries name: registered as the service starts, and tried on their engines.

What is served is a copy named by its content, so that files changed in their place change nothing
until the next start, which then serves them as a new version. An adapter that cannot be had, or
that an engine refuses, is taken out of the list and noted for the operator; its base is served.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from server.config import AdapterEntry, Config, ModelEntry
from server.engines.start_failures import Part, StartFailure, note_failure
from server.store import Store
from server.store.configured_adapters import AdapterVersion
from server.store.records import Model
from server.supervisor.engine_keeper import EngineKeeper, EngineRefusalError
from server.supervisor.patience import Patience
from server.supervisor.trained_models import install_copy
from workers.contract.adapter_layout import adapter_files, foreign_layout, missing_file
from workers.contract.parts import AdapterRef

logger = logging.getLogger(__name__)


class _NoAdapterError(Exception):
    """For the operator: what the directory is in place of an adapter."""


_LOAD_TIMEOUT_S = 600.0
"""Then it is tried again: the model may be on its way from a hub."""


class EntryAdapters:
    def __init__(
        self, config: Config, store: Store, engines: EngineKeeper, patience: Patience
    ) -> None:
        self._config = config
        self._store = store
        self._engines = engines
        self._patience = patience

    async def run(self) -> None:
        """Until each is either served or noted."""
        pairs = [(entry, adapter) for entry in self._config.models for adapter in entry.adapters]
        await asyncio.gather(*(self._serve(entry, adapter) for entry, adapter in pairs))

    async def _serve(self, entry: ModelEntry, adapter: AdapterEntry) -> None:
        try:
            model = await self._patience.insist(self._register, entry, adapter)
            await self._try(model)
        except (OSError, _NoAdapterError, EngineRefusalError) as error:
            await self._give_up(entry, adapter, str(error))
        except Exception as error:
            logger.exception("adapter not served", extra={"adapter": adapter.id})
            await self._give_up(entry, adapter, f"{type(error).__name__}: {error}")

    async def _register(self, entry: ModelEntry, adapter: AdapterEntry) -> Model:
        """Raises OSError, _NoAdapterError."""
        path = await asyncio.to_thread(_install, Path(adapter.path), self._config.adapters_dir)
        version = AdapterVersion(adapter.id, entry.id, str(path), entry.owned_by)
        return await self._store.configured_adapters.put(version)

    async def _try(self, model: Model) -> None:
        """Raises EngineRefusalError."""
        assert model.adapter_uid is not None
        ref = AdapterRef(model.adapter_name, model.adapter_uid, model.path)
        while True:
            try:
                await self._engines.load_adapter(model.engine_model, ref, _LOAD_TIMEOUT_S)
            except TimeoutError:
                continue
            logger.info(
                "adapter served", extra={"model": model.base, "adapter": model.adapter_name}
            )
            return

    async def _give_up(self, entry: ModelEntry, adapter: AdapterEntry, reason: str) -> None:
        await self._patience.insist(self._store.configured_adapters.retire, adapter.id)
        logger.error(
            "adapter not served",
            extra={"model": entry.id, "adapter": adapter.id, "reason": reason},
        )
        part = Part(entry.id, adapter=adapter.id)
        note_failure(self._config.run_dir, StartFailure(part, reason, None, time.time()))


def _install(source: Path, root: Path) -> Path:
    """Raises OSError, _NoAdapterError."""
    problem = foreign_layout(source) or missing_file(source)
    if problem is not None:
        raise _NoAdapterError(f"{source}: {problem}")
    return install_copy(source, adapter_files(source), root)
