"""What a model directory is for: generating, embedding or scoring."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from workers.contract.model_files import VALUE_HEAD_FILE
from workers.engine.hf.pooling import read_json


class Task(StrEnum):
    GENERATE = "generate"
    EMBED = "embed"
    SCORE = "score"


def choose_task(path: str, named: str | None) -> Task:
    """What the entry says; else what the directory's files say. Raises SpecError."""
    if named is not None:
        return Task(named)
    folder = Path(path)
    config = read_json(folder / "config.json") or {}
    architectures = [str(name) for name in config.get("architectures") or ()]
    if (folder / VALUE_HEAD_FILE).is_file():
        return Task.SCORE
    if any(name.endswith("ForSequenceClassification") for name in architectures):
        return Task.SCORE
    if (folder / "modules.json").is_file():
        return Task.EMBED
    generates = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
    return Task.GENERATE if generates or not architectures else _not_a_decoder(architectures)


def _not_a_decoder(architectures: list[str]) -> Task:
    whole = architectures[0].endswith(("Model", "ForMaskedLM"))
    return Task.EMBED if whole else Task.GENERATE
