"""What the entry asks to be done to a model before it is served."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch

from workers.engine.hf.context import context_length
from workers.engine.hf.settings import HfSettings
from workers.engine.rope import rope_overrides
from workers.engine.spec import EngineSpec, SpecError
from workers.models.adapters import load_adapter
from workers.models.rope import fix_regime

log = logging.getLogger(__name__)


def scale_rope(config: Any, path: str, spec: EngineSpec, settings: HfSettings) -> None:
    """Changes the config. Raises SpecError."""
    if settings.rope_scaling is None:
        return
    overrides = rope_overrides(path, settings.rope_scaling, spec.max_model_len)
    for name, value in overrides.items():
        setattr(config.get_text_config(), name, value)


def fix_rope(config: Any, spec: EngineSpec) -> None:
    """Changes the config where its angles would depend on the longest sequence of a batch."""
    max_len = context_length(config, spec)
    regime = fix_regime(config.get_text_config(), max_len)
    if regime is not None:
        log.info("one regime of LongRoPE for all lengths", extra={"regime": regime})


def merge_adapters(model: Any, settings: HfSettings) -> Any:
    """The model with the adapters in its weights. Raises SpecError."""
    for path in settings.adapter_paths:
        if not (Path(path) / "adapter_config.json").is_file():
            raise SpecError(f"settings: merged_adapters: {path} holds no adapter")
        try:
            model = load_adapter(model, path).merge_and_unload(safe_merge=True)
        except (RuntimeError, ValueError, KeyError) as error:
            raise SpecError(f"settings: merged_adapters: {path}: {error}") from error
    return model


def attention_name(settings: HfSettings, device: torch.device) -> str | None:
    """transformers' `attn_implementation` of a model that embeds or scores; None is its own choice.
    Raises SpecError."""
    if settings.flash_attn == "fa2":
        if device.type != "cuda" or importlib.util.find_spec("flash_attn") is None:
            raise SpecError(
                "flash_attn 'fa2' needs a CUDA device and the package flash-attn in the engine's "
                "environment; use sdpa"
            )
        return "flash_attention_2"
    return {"auto": None, "disabled": "eager", "sdpa": "sdpa"}[settings.flash_attn]
