"""What a model's `generation_config.json` says of sampling; `Hello` tells it to the gateways."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from workers.engine.spec import EngineSpec

log = logging.getLogger(__name__)

_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (1e-6, 1.0),
    "top_k": (0, 1 << 20),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-6, 100.0),
}
"""What of it is used, as by vLLM and SGLang; `do_sample` is not: files leave it out at will."""


def generation_config(spec: EngineSpec) -> dict[str, float]:
    """A file that cannot be read is logged and left alone: the model works without it."""
    if spec.model_path is None:
        return {}
    path = Path(spec.model_path) / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        log.warning("unreadable generation config", extra={"reason": type(error).__name__})
        return {}
    return {name: value for name, value in values.items() if _is_usable(name, value)}


def _is_usable(name: str, value: object) -> bool:
    if name not in _RANGES or isinstance(value, bool) or not isinstance(value, int | float):
        return False
    least, most = _RANGES[name]
    return least <= value <= most
