"""`tuneyard serve MODEL`: one model without a settings file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from server.cli.options import refuse
from server.config import Config, ConfigError, load_config
from server.environments.locate import EnvironmentMissingError, engine_python
from server.environments.recipes import Device, EngineName, present_device


class ServedBy(StrEnum):
    AUTO = "auto"
    HF = "hf"
    VLLM = "vllm"
    SGLANG = "sglang"


def load_for(model: str, engine: ServedBy, config: Path | None) -> Config:
    """The settings with `model` as their one entry. It goes by the last part of its path or name.
    Refuses what cannot be used."""
    if config is not None:
        refuse("Name the model in the settings file, or leave --config out.")
    served_by = _choose() if engine is ServedBy.AUTO else engine
    entry = {"id": Path(model).resolve().name, "path": model, "engine": served_by.value}
    try:
        return load_config(None, models=[entry])
    except ConfigError as error:
        refuse(str(error))


def _choose() -> ServedBy:
    if present_device() is Device.CUDA:
        try:
            engine_python(EngineName.VLLM, None)
        except EnvironmentMissingError:
            return ServedBy.HF
        return ServedBy.VLLM
    return ServedBy.HF
