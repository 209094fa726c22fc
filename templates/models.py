"""Which named template belongs to a model, by the model's exact name on a hub."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, cast

import yaml


@dataclass(frozen=True, slots=True)
class ModelTemplate:
    template: str
    is_chat: bool
    """The model was trained with it; else it is a base model, to be fine-tuned with it."""


def template_of_model(hub_name: str) -> ModelTemplate | None:
    """None for a model that the table does not list; no name is guessed from a similar one."""
    return model_table().get(hub_name)


@lru_cache(maxsize=1)
def model_table() -> dict[str, ModelTemplate]:
    text = (resources.files("templates") / "models.yaml").read_text(encoding="utf-8")
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    groups = cast(dict[str, dict[str, list[str]]], yaml.load(text, Loader=loader))
    return {
        name: ModelTemplate(template, kind == "chat")
        for template, kinds in groups.items()
        for kind, names in kinds.items()
        for name in names
    }
