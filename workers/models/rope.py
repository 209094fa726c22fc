"""One regime of LongRoPE for a model's whole life.

Such a model has two sets of angles, for sequences up to the length it was pretrained on and for
longer ones, and transformers picks one for a whole batch by its largest position. So the answer to
a short prompt would change while a long one runs beside it, and keys of one regime would be reused
in the other. Here both sets become that of the longest sequence the engine takes, which is also how
vLLM chooses.
"""

from __future__ import annotations

from typing import Any

_TWINS = (("short_factor", "long_factor"), ("short_mscale", "long_mscale"))


def fix_regime(config: Any, max_len: int) -> str | None:
    """Changes the (text) config; names the regime, or None where the model has but one."""
    rope = getattr(config, "rope_parameters", None) or {}
    layers = [value for value in rope.values() if isinstance(value, dict)] or [rope]
    regimes = [_fix(parameters, max_len) for parameters in layers]
    return next((regime for regime in regimes if regime is not None), None)


def _fix(parameters: dict[str, Any], max_len: int) -> str | None:
    if parameters.get("rope_type") != "longrope":
        return None
    is_long = max_len > parameters["original_max_position_embeddings"]
    for short, long in _TWINS:
        if short in parameters and long in parameters:
            kept = parameters[long if is_long else short]
            parameters[short] = parameters[long] = kept
    return "long" if is_long else "short"
