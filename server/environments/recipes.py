"""Recipes: what goes into an engine's environment, as data in `deploy/environments/<engine>/`.

`<device>.yaml` says what to install, `<device>.txt` pins every version.
"""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "environments"


class EngineName(StrEnum):
    VLLM = "vllm"
    SGLANG = "sglang"


class Device(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: EngineName
    device: Device
    version: str
    install: tuple[str, ...]
    """Requirements, installed with what they need."""
    without_dependencies: tuple[str, ...] = ()
    """Installed after them, without what they say they need."""
    remove: tuple[str, ...] = ()
    """Taken out again at the end."""
    check: tuple[str, ...]
    """Modules that must import in the finished environment."""
    note: str = ""
    """For the operator, once it is built."""

    @property
    def constraints(self) -> Path:
        return FOLDER / self.engine / f"{self.device}.txt"


def recipe(engine: EngineName, device: Device) -> Recipe:
    file = FOLDER / engine / f"{device}.yaml"
    return Recipe.model_validate(yaml.safe_load(file.read_text()))


def present_device() -> Device:
    """CUDA where the NVIDIA driver's tool is installed."""
    return Device.CUDA if shutil.which("nvidia-smi") else Device.CPU
