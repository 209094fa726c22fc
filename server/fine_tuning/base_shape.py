"""What a base model's directory says of its size and kind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from workers.contract.model_files import VALUE_HEAD_FILE


@dataclass(frozen=True, slots=True)
class BaseShape:
    """None: the config does not say."""

    hidden_size: int | None = None
    context_len: int | None = None
    num_experts: int | None = None
    """Of each layer that is a mixture of experts."""
    is_reward_model: bool = False


def read_base_shape(folder: Path) -> BaseShape:
    """Multimodal models keep their text model's config under `text_config`."""
    try:
        config: Any = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return BaseShape()
    if not isinstance(config, dict):
        return BaseShape()
    whole = cast(dict[str, Any], config)
    sections = [whole, cast(dict[str, Any], whole.get("text_config") or {})]
    return BaseShape(
        _first(sections, "hidden_size"),
        _first(sections, "max_position_embeddings"),
        _first(sections, "num_experts", "num_local_experts", "n_routed_experts"),
        (folder / VALUE_HEAD_FILE).is_file(),
    )


def _first(sections: list[dict[str, Any]], *names: str) -> int | None:
    found = (section.get(name) for section in sections for name in names)
    return next((value for value in found if isinstance(value, int)), None)
