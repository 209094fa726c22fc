"""LoRA adapters in SGLang: loaded under their name before first use, unloaded when dropped.

SGLang gives each load an id of its own, by which its prefix cache is keyed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from workers.contract.messages import FailureKind
from workers.contract.parts import AdapterRef
from workers.engine.adapter_files import base_shapes, check_adapter, made_plain
from workers.engine.adapter_kinds import rules_of
from workers.engine.backend import RefusedError
from workers.engine.spec import EngineSpec

log = logging.getLogger(__name__)


class SglangAdapters:
    def __init__(self, spec: EngineSpec, engine: Any) -> None:
        self._rules = rules_of(spec.backend, spec.max_lora_rank)
        self._model_path = spec.model_path or ""
        self._base = base_shapes(spec.model_path or "")
        self._engine = engine

    async def check(self, adapter: AdapterRef) -> None:
        await asyncio.to_thread(check_adapter, adapter, self._base, self._rules)

    async def load(self, adapter: AdapterRef) -> None:
        plain = await asyncio.to_thread(made_plain, adapter, self._model_path)
        result = await self._engine.async_load_lora_adapter(plain.name, plain.path)
        if not result.success:
            log.warning(
                "adapter not loaded",
                extra={"adapter": adapter.name, "reason": result.error_message},
            )
            message = f"The engine could not load adapter {adapter.name!r}."
            raise RefusedError(FailureKind.ADAPTER_INVALID, message, "model")

    async def drop(self, adapter: AdapterRef) -> None:
        result = await self._engine.async_unload_lora_adapter(adapter.name)
        if not result.success:
            log.warning(
                "adapter not unloaded",
                extra={"adapter": adapter.name, "reason": result.error_message},
            )
