"""Reads `tuneyard.yaml` and the environment.

`HOST`, `PORT`, `DATA` and `API_KEY` of the environment win over the file; `MAX_CONCURRENT` is for
model entries that say nothing of it. Relative paths are relative to the file (or to the working
directory without one, and for a file of LLaMA-Factory's).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from server.config.entry import EngineKind, ModelEntry
from server.config.factory_file import is_model_file, model_settings, why_not_served
from server.config.service import Config
from server.hubs.names import Hub, is_model_name

BUNDLED_MODEL = Path(__file__).resolve().parents[2] / "deploy" / "model" / "tuneyard-mini"

SETTING_VARIABLES = ("HOST", "PORT", "DATA", "API_KEY")
_HUB_VARIABLES = {"USE_MODELSCOPE_HUB": Hub.MODELSCOPE, "USE_OPENMIND_HUB": Hub.MODELERS}


CONCURRENCY_VARIABLE = "MAX_CONCURRENT"
"""LLaMA-Factory's name: the `max_concurrent` of every model whose entry does not set it."""


class ConfigError(Exception):
    """The configuration cannot be used; the message is for the operator."""


def load_config(path: Path | None, environ: Mapping[str, str] = os.environ, **given: Any) -> Config:
    """The file's settings under those `given` and the environment's. Raises ConfigError."""
    written, base = ({}, Path.cwd()) if path is None else (_read(path), path.resolve().parent)
    if is_model_file(written):
        written, base = model_settings(written), Path.cwd()
    elif (reason := why_not_served(written)) is not None:
        raise ConfigError(f"{path}: {reason}")
    settings = {**written, **given}
    for name in SETTING_VARIABLES:
        if environ.get(name):
            settings[name.lower()] = environ[name]
    if "models" not in settings:
        settings["models"] = [{"id": "tuneyard-mini", "path": str(BUNDLED_MODEL)}]
    if environ.get(CONCURRENCY_VARIABLE):
        _limit_concurrency(settings["models"], environ[CONCURRENCY_VARIABLE])
    try:
        config = Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(_describe(error, path)) from error
    return _anchored(config, base, environ)


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: expected settings by name, one `name: value` a line")
    return settings


def _limit_concurrency(entries: Any, limit: str) -> None:
    """What is no list of settings by name is left for the validation to name."""
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and CONCURRENCY_VARIABLE not in entry:
            entry.setdefault("max_concurrent", limit)


def _describe(error: ValidationError, path: Path | None) -> str:
    lines = [
        f"  {'.'.join(str(part) for part in detail['loc']) or 'settings'}: {detail['msg']}"
        for detail in error.errors()
    ]
    return "\n".join([f"{path or 'environment'} cannot be used:", *lines])


def _anchored(config: Config, base: Path, environ: Mapping[str, str]) -> Config:
    """`data` (unless from the environment) and model directories made absolute."""
    data = config.data if "DATA" in environ else base / config.data
    return config.model_copy(
        update={
            "data": data.resolve(),
            "models": tuple(_placed(entry, base, environ) for entry in config.models),
            "templates": tuple((base / folder).resolve() for folder in config.templates),
        }
    )


def _placed(entry: ModelEntry, base: Path, environ: Mapping[str, str]) -> ModelEntry:
    """The entry with its directory made absolute, or its hub named. Raises ConfigError."""
    directory = (base / entry.path).resolve()
    placed: dict[str, Any] = {}
    if entry.cache_dir is not None:
        placed["cache_dir"] = (base / entry.cache_dir.expanduser()).resolve()
    if (adapters := entry.settings.get("merged_adapters")) is not None:
        paths = adapters.split(",") if isinstance(adapters, str) else adapters
        anchored = [str((base / str(path).strip()).resolve()) for path in paths]
        placed["settings"] = {**entry.settings, "merged_adapters": anchored}
    placed["adapters"] = tuple(
        adapter.model_copy(update={"path": str((base / adapter.path).resolve())})
        for adapter in entry.adapters
    )
    if entry.ca_file is not None:
        placed["ca_file"] = (base / entry.ca_file).resolve()
    if entry.token_file is not None:
        placed["token_file"] = str((base / entry.token_file).resolve())
    if entry.hub is None and directory.is_dir():
        placed["path"] = str(directory)
        _refuse_hub_settings(entry)
    elif entry.hub is None and entry.engine is not EngineKind.SCRIPTED:
        placed["hub"] = _default_hub(environ)
    if placed.get("hub", entry.hub) is not None and not is_model_name(entry.path):
        raise ConfigError(
            f"model {entry.id}: path {entry.path!r} is no directory, and no model's name on a hub"
        )
    return entry.model_copy(update=placed)


def _refuse_hub_settings(entry: ModelEntry) -> None:
    for name in ("revision", "hub_token", "cache_dir"):
        if getattr(entry, name) is not None:
            raise ConfigError(
                f"model {entry.id}: {name} is for a model from a hub, and path {entry.path!r} is a "
                "local directory; set hub if a hub's model of that name is meant"
            )


def _default_hub(environ: Mapping[str, str]) -> Hub:
    """By LLaMA-Factory's variables, ModelScope's first as there (`extras/misc.py`)."""
    for variable, hub in _HUB_VARIABLES.items():
        if environ.get(variable, "0").lower() in ("1", "true", "y"):
            return hub
    return Hub.HUGGINGFACE
