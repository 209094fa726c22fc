"""Starts `AsyncLLM` and its engine process."""

# vLLM is installed in its own environment, not in the one that type-checks.
# pyright: reportMissingImports=false

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from workers.engine.spec import EngineSpec, SpecError
from workers.engine.vllm.settings import VllmSettings, check_device, engine_arguments

SHUTDOWN_TIMEOUT_S = 10.0
_SEEING = frozenset({"llava", "qwen2_vl", "qwen2_5_vl"})
"""Model types whose picture tensors have the same names in vLLM and in transformers."""


def takes_pictures(spec: EngineSpec) -> bool:
    """Raises SpecError for a model that vLLM could not load here."""
    from workers.engine.hf.pooling import read_json

    config = read_json(Path(spec.model_path or "") / "config.json") or {}
    if "vision_config" in config and importlib.util.find_spec("torchvision") is None:
        raise SpecError(
            "vLLM loads models that see only where torchvision is installed, and its environment "
            "for CPU has none: use engine: hf"
        )
    tower = config.get("vision_config", {}).get("model_type")
    return config.get("model_type") in _SEEING and tower != "pixtral"


def start_engine(spec: EngineSpec, settings: VllmSettings, more: dict[str, Any]) -> tuple[Any, str]:
    """The engine and vLLM's version; `more` are engine arguments. Raises SpecError."""
    import vllm.version
    from vllm.config import PoolerConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    on_cpu = current_platform.is_cpu()
    check_device(spec, on_cpu=on_cpu)
    arguments = engine_arguments(spec, settings, on_cpu=on_cpu) | more
    if "pooler_config" in arguments:
        arguments["pooler_config"] = PoolerConfig(**arguments["pooler_config"])
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    return engine, vllm.version.__version__
