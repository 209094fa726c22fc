"""How many tokens a model takes."""

from __future__ import annotations

import logging
from typing import Any

from workers.engine.spec import EngineSpec, SpecError

log = logging.getLogger(__name__)

_NAMES = (
    "max_position_embeddings",
    "model_max_length",
    "max_seq_len",
    "context_length",
    "seq_length",
    "n_positions",
    "n_ctx",
)
"""As configs of transformers call it."""
_UNNAMED = 8192
"""Of models that name no length: recurrent ones, and those with biases for positions."""


def context_length(config: Any, spec: EngineSpec) -> int:
    """Raises SpecError."""
    own = own_length(config)
    if own is not None and spec.max_model_len is not None and spec.max_model_len > own:
        raise SpecError(f"max_model_len {spec.max_model_len} is over the model's own {own}")
    if spec.max_model_len is not None:
        return spec.max_model_len
    if own is None:
        log.info("the model's config names no context length", extra={"max_model_len": _UNNAMED})
        return _UNNAMED
    return own


def own_length(config: Any) -> int | None:
    text = config.get_text_config()
    lengths = (getattr(text, name, None) for name in _NAMES)
    return next((n for n in lengths if isinstance(n, int) and n > 1), None)
