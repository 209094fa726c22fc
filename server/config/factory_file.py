"""A file of LLaMA-Factory's for inference is the settings of a service with one model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from server.config.generation import GenerationDefaults
from server.config.service import Config

_MODEL = "model_name_or_path"
_OF_TRAINING = ("stage", "do_train", "dataset", "output_dir")
_OF_EXPORT = ("export_dir",)
_OF_SERVICE = frozenset(Config.model_fields)
_OF_GENERATION = frozenset(GenerationDefaults.model_fields) | {
    "max_new_tokens",
    "max_length",
    "num_beams",
    "length_penalty",
    "do_sample",
}
_SAYS_NOTHING = frozenset({"finetuning_type"})
"""Of an adapter that is merged, its files say what it is."""


def is_model_file(settings: Mapping[str, Any]) -> bool:
    """Whether these settings, at the head of a file, are LLaMA-Factory's of a model to serve."""
    return _MODEL in settings and not any(
        name in settings for name in ("models", *_OF_TRAINING, *_OF_EXPORT)
    )


def why_not_served(settings: Mapping[str, Any]) -> str | None:
    """What a file of LLaMA-Factory's is for, if not for serving a model."""
    if _MODEL not in settings or "models" in settings:
        return None
    if any(name in settings for name in _OF_TRAINING):
        return "it is LLaMA-Factory's file of a training run: use `tuneyard train` for it"
    if any(name in settings for name in _OF_EXPORT):
        return "it is LLaMA-Factory's file of an export; adapters are served without one"
    return None


def model_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The service's own settings stay; all others are of the model, under the last part of its
    name as its id."""
    service = {name: value for name, value in settings.items() if name in _OF_SERVICE}
    given = {name: value for name, value in settings.items() if name not in _OF_SERVICE}
    entry = {
        name: value
        for name, value in given.items()
        if name not in _OF_GENERATION and name not in _SAYS_NOTHING and value is not None
    }
    generation = {name: given[name] for name in given if name in _OF_GENERATION}
    entry.setdefault("id", PurePath(str(given[_MODEL])).name)
    if generation:
        entry["generation"] = generation
    return {**service, "models": [entry]}
