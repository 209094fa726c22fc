"""Which files make an adapter's directory, and how others' layouts are told."""

from __future__ import annotations

from pathlib import Path

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"
INITIAL_FILE = "pissa_init/adapter_model.safetensors"
"""The factors that training began with, as LLaMA-Factory keeps them beside a PiSSA adapter."""

ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE, PICKLED_FILE, INITIAL_FILE)
"""All that an engine reads of an adapter's directory, and so what is copied and sent."""

_OTHERS = {
    "adapters.safetensors": "it is in MLX's layout: convert it to PEFT's",
    "adapters.npz": "it is in MLX's layout: convert it to PEFT's",
    "adapter_model.safetensors.index.json": "its weights are in several files: save them in one",
    "adapter_model.pt": "its weights are in adapter_model.pt: save them as safetensors",
    "model.safetensors": "it holds a whole model, not an adapter: serve it as a model",
    "model.safetensors.index.json": "it holds a whole model, not an adapter: serve it as a model",
    "pytorch_model.bin": "it holds a whole model, not an adapter: serve it as a model",
}
"""What people take for an adapter."""


def adapter_files(folder: Path) -> list[str]:
    """The names of those that are there. Pickled weights are left where safetensors are beside."""
    names = [name for name in ADAPTER_FILES if (folder / name).is_file()]
    if WEIGHTS_FILE in names and PICKLED_FILE in names:
        names.remove(PICKLED_FILE)
    return names


def foreign_layout(folder: Path) -> str | None:
    """What the directory is in place of an adapter that PEFT has saved, if that can be told."""
    if {WEIGHTS_FILE, PICKLED_FILE} & set(adapter_files(folder)):
        return None
    return next((said for name, said in _OTHERS.items() if (folder / name).is_file()), None)


def missing_file(folder: Path) -> str | None:
    """What lacks for an adapter that PEFT has saved."""
    names = adapter_files(folder)
    if CONFIG_FILE not in names:
        return f"there is no {CONFIG_FILE}"
    if WEIGHTS_FILE not in names and PICKLED_FILE not in names:
        return f"there is no {WEIGHTS_FILE} and no {PICKLED_FILE}"
    return None
