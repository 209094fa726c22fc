"""Longer contexts by rope scaling: the changes to a model's config, the same for every engine.

By name alone (`yarn`) the factor is what `max_model_len` needs, or 2 without one, as LLaMA-Factory
chooses it (`model_utils/rope.py`); a table gives transformers' own parameters.

`dynamic` scales by how long a sequence is by now. In a batch that is the longest one's length, so
that answers would depend on their neighbours: here it is fixed at what it is for the full length.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from workers.engine.spec import SpecError

RopeScaling = str | dict[str, Any]
_DEFAULT_FACTOR = 2.0
_DEFAULT_THETA = 10000.0
_EXTRA: dict[str, dict[str, float]] = {
    "linear": {},
    "dynamic": {},
    "yarn": {},
    "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
_KEYS = {"rope_type", "factor", "original_max_position_embeddings"}
_YARN_KEYS = {"beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"}


def rope_overrides(
    model_path: str | Path, scaling: RopeScaling, max_model_len: int | None
) -> dict[str, Any]:
    """What replaces these names in the model's (text) config. Raises SpecError."""
    config = text_config(model_path)
    own_length = config.get("max_position_embeddings")
    parameters = dict(config.get("rope_parameters") or {})
    if own_length is None or any(isinstance(value, dict) for value in parameters.values()):
        raise SpecError("settings: rope_scaling: this model has no single rope to scale")
    given: dict[str, Any] = {"rope_type": scaling} if isinstance(scaling, str) else dict(scaling)
    kind = given.get("rope_type")
    if kind not in _EXTRA:
        known = ", ".join(_EXTRA)
        raise SpecError(f"settings: rope_scaling: rope_type must be one of {known}, not {kind!r}")
    unknown = given.keys() - _KEYS - _EXTRA[kind].keys() - (_YARN_KEYS if kind == "yarn" else set())
    if unknown:
        raise SpecError(f"settings: rope_scaling: {kind} has no {', '.join(sorted(unknown))}")
    original = int(given.get("original_max_position_embeddings", own_length))
    factor = float(given.get("factor") or _factor(original, max_model_len))
    if factor <= 1:
        raise SpecError(f"settings: rope_scaling: factor must be more than 1, not {factor:g}")
    theta = float(parameters.get("rope_theta") or config.get("rope_theta") or _DEFAULT_THETA)
    kept = {k: v for k, v in parameters.items() if k == "partial_rotary_factor"}
    scaled: dict[str, Any] = {**kept, "rope_theta": theta, "rope_type": kind, "factor": factor}
    if kind == "dynamic":
        share = parameters.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
        theta = _dynamic_theta(theta, factor, int(_head_dim(config) * share))
        scaled = {**kept, "rope_theta": theta, "rope_type": "default"}
    elif kind != "linear":
        scaled |= {"original_max_position_embeddings": original}
        scaled |= _EXTRA[kind] | {k: v for k, v in given.items() if k not in _KEYS}
    return {"max_position_embeddings": int(original * factor), "rope_parameters": scaled}


def text_config(model_path: str | Path) -> dict[str, Any]:
    """Raises SpecError."""
    try:
        config = json.loads((Path(model_path) / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise SpecError(f"{model_path} holds no model: {error}") from error
    return config.get("text_config") or config


def nested_overrides(model_path: str | Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """For engines that take changes of the whole config."""
    config = json.loads((Path(model_path) / "config.json").read_bytes())
    return {"text_config": overrides} if config.get("text_config") else overrides


def _factor(original: int, max_model_len: int | None) -> float:
    if max_model_len is None:
        return _DEFAULT_FACTOR
    if max_model_len <= original:
        raise SpecError(
            f"settings: rope_scaling: max_model_len {max_model_len} is within the model's own "
            f"{original}; leave rope_scaling out, or give it a factor"
        )
    return float(math.ceil(max_model_len / original))


def _dynamic_theta(theta: float, factor: float, rotary_dim: int) -> float:
    """transformers' `_compute_dynamic_ntk_parameters` for a sequence of the full length."""
    growth = factor * factor - (factor - 1)
    return theta * growth ** (rotary_dim / (rotary_dim - 2))


def _head_dim(config: dict[str, Any]) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
