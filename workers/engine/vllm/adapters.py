"""LoRA adapters in vLLM: one `LoRARequest(name, id, path)` per version, added before first use.

vLLM would load an adapter by itself when a request names it, but files that are missing or bad then
take the engine down; `add_lora` first turns that into an error of one request.
"""

# pyright: reportMissingImports=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
import logging
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError

from workers.contract.messages import FailureKind
from workers.contract.parts import AdapterRef
from workers.engine.adapter_files import base_shapes, check_adapter, made_plain
from workers.engine.adapter_kinds import rules_of
from workers.engine.backend import RefusedError
from workers.engine.spec import EngineSpec

log = logging.getLogger(__name__)


def lora_request(adapter: AdapterRef) -> LoRARequest:
    return LoRARequest(adapter.name, adapter.uid, adapter.path)


class VllmAdapters:
    def __init__(self, spec: EngineSpec, engine: Any) -> None:
        self._rules = rules_of(spec.backend, spec.max_lora_rank)
        self._model_path = spec.model_path or ""
        self._base = base_shapes(spec.model_path or "")
        self._engine = engine

    async def check(self, adapter: AdapterRef) -> None:
        await asyncio.to_thread(check_adapter, adapter, self._base, self._rules)

    async def load(self, adapter: AdapterRef) -> None:
        plain = await asyncio.to_thread(made_plain, adapter, self._model_path)
        try:
            added = await self._engine.add_lora(lora_request(plain))
        except EngineDeadError as error:
            message = "The engine stopped unexpectedly."
            raise RefusedError(FailureKind.ENGINE_DEAD, message) from error
        except Exception as error:  # what the engine's process raised arrives as a bare Exception
            log.warning("adapter not loaded", extra={"adapter": adapter.name}, exc_info=error)
            added = False
        if not added:
            message = f"The engine could not load adapter {adapter.name!r}."
            raise RefusedError(FailureKind.ADAPTER_INVALID, message, "model")

    async def drop(self, adapter: AdapterRef) -> None:
        await self._engine.remove_lora(adapter.uid)
