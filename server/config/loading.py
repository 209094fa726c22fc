"""Reads `tuneyard.yaml` and the environment.

`HOST`, `PORT`, `DATA` and `API_KEY` of the environment win over the file. Relative paths are
relative to the file (or to the working directory without one).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from server.config.service import Config

BUNDLED_MODEL = Path(__file__).resolve().parents[2] / "deploy" / "model" / "tuneyard-mini"

SETTING_VARIABLES = ("HOST", "PORT", "DATA", "API_KEY")


class ConfigError(Exception):
    """The configuration cannot be used; the message is for the operator."""


def load_config(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """The file's settings under the environment's. Raises ConfigError."""
    settings = {} if path is None else _read(path)
    for name in SETTING_VARIABLES:
        if environ.get(name):
            settings[name.lower()] = environ[name]
    if "models" not in settings:
        settings["models"] = [{"id": "tuneyard-mini", "path": str(BUNDLED_MODEL)}]
    try:
        config = Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(_describe(error, path)) from error
    return _anchored(config, path)


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


def _describe(error: ValidationError, path: Path | None) -> str:
    lines = [
        f"  {'.'.join(str(part) for part in detail['loc']) or 'settings'}: {detail['msg']}"
        for detail in error.errors()
    ]
    return "\n".join([f"{path or 'environment'} cannot be used:", *lines])


def _anchored(config: Config, path: Path | None) -> Config:
    """`data` (unless from the environment) and model directories made absolute."""
    base = Path.cwd() if path is None else path.resolve().parent
    models = tuple(
        entry.model_copy(update={"path": str((base / entry.path).resolve())})
        if (base / entry.path).is_dir()
        else entry
        for entry in config.models
    )
    data = config.data if "DATA" in os.environ else base / config.data
    return config.model_copy(
        update={
            "data": data.resolve(),
            "models": models,
            "templates": tuple((base / folder).resolve() for folder in config.templates),
        }
    )
