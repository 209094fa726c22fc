"""LoRA adapters in an attached server, through its dynamic-LoRA routes."""

from __future__ import annotations

import asyncio
import logging

from workers.contract.messages import FailureKind
from workers.contract.parts import AdapterRef
from workers.engine.adapter_files import base_shapes, check_adapter, made_plain
from workers.engine.adapter_kinds import AdapterRules
from workers.engine.attached.connection import OK, Connection
from workers.engine.attached.server import Server
from workers.engine.backend import RefusedError
from workers.engine.spec import EngineSpec, SpecError

log = logging.getLogger(__name__)


class ServerAdapters:
    """The files lie under the same paths here, so they are checked here: servers load adapters of
    wrong shapes, and some die of files that are gone."""

    def __init__(
        self, spec: EngineSpec, connection: Connection, server: Server, rules: AdapterRules
    ) -> None:
        self._connection = connection
        self._server = server
        self._rules = rules
        self._model_path = spec.model_path or ""
        # The local copy of the model may have no weights.
        self._base = base_shapes(spec.model_path or "") or None

    async def check(self, adapter: AdapterRef) -> None:
        await asyncio.to_thread(check_adapter, adapter, self._base, self._rules)

    async def load(self, adapter: AdapterRef) -> None:
        plain = await asyncio.to_thread(made_plain, adapter, self._model_path)
        body = {"lora_name": adapter.name, "lora_path": plain.path}
        status = await self._connection.post(self._server.load_path, body)
        if status == OK or await self._is_loaded(adapter):
            return
        log.warning("adapter not loaded", extra={"adapter": adapter.name, "status": status})
        if status in (401, 403, 404):
            message = "The attached engine does not let adapters be loaded."
            raise RefusedError(FailureKind.UNSUPPORTED, message, "model")
        message = f"The attached engine could not load adapter {adapter.name!r}."
        raise RefusedError(FailureKind.ADAPTER_INVALID, message, "model")

    async def drop(self, adapter: AdapterRef) -> None:
        body = {"lora_name": adapter.name}
        status = await self._connection.post(self._server.unload_path, body)
        if status != OK:
            log.warning("adapter not unloaded", extra={"adapter": adapter.name, "status": status})

    async def _is_loaded(self, adapter: AdapterRef) -> bool:
        """A worker before this one may have loaded it; both servers refuse a name they have."""
        try:
            return await self._server.loaded(adapter)
        except SpecError:
            return False
