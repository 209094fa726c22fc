"""The file an engine worker starts from, made of a model entry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from server.config import ModelEntry

DRAIN_TIMEOUT_S = 600.0
"""How long a worker that an operator tells to leave may go on with what is under way. Whoever
started it ends it sooner when it has to leave itself."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a worker serves: a configured model, or a full fine-tune in its place."""

    model_id: str
    path: str
    entry: ModelEntry
    templates: tuple[Path, ...] = ()
    """Folders with chat formats of the operator's own."""


def engine_spec(served: ServedModel, listen: str, parent_fd: int | None) -> dict[str, Any]:
    """As `workers.engine.spec.EngineSpec` reads it."""
    entry = served.entry
    return {
        "model_id": served.model_id,
        "model_path": served.path,
        "backend": entry.engine.value,
        "listen": listen,
        "dtype": entry.dtype,
        "device": entry.device,
        "max_model_len": entry.max_model_len,
        "max_num_seqs": entry.max_num_seqs,
        "max_loras": entry.max_loras,
        "max_lora_rank": entry.max_lora_rank,
        "template": entry.template,
        "templates": [str(folder) for folder in served.templates],
        "trust_remote_code": entry.trust_remote_code,
        "settings": entry.engine_settings,
        "drain_timeout_s": DRAIN_TIMEOUT_S,
        "parent_fd": parent_fd,
    }


def write_spec(path: Path, spec: dict[str, Any]) -> None:
    """Readable by its owner alone: it may hold the key of an attached engine, or a token."""
    path.touch(mode=0o600)
    path.write_bytes(msgspec.json.encode(spec))
