"""LoRA through peft: fresh, continued, or merged into the base."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers.pytorch_utils import Conv1D

from workers.contract.training import FinetuningArguments
from workers.trainer.failures import InvalidHyperparameters, TrainerError

_LINEAR = (torch.nn.Linear, Conv1D)


def add_lora(base: Any, arguments: FinetuningArguments) -> torch.nn.Module:
    config = LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha or 2 * arguments.lora_rank,
        lora_dropout=arguments.lora_dropout,
        target_modules=_targets(base, arguments.lora_target),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config)


def load_lora(base: Any, path: Path) -> torch.nn.Module:
    """Goes on training an adapter, in the shape it has."""
    if not (path / "adapter_config.json").is_file():
        raise TrainerError("The adapter to go on from cannot be read.", "adapter_name_or_path")
    kind = json.loads((path / "adapter_config.json").read_bytes()).get("peft_type")
    if kind != "LORA":
        raise InvalidHyperparameters(
            "Only a LoRA adapter can be trained further.", "adapter_name_or_path"
        )
    return PeftModel.from_pretrained(base, str(path), is_trainable=True)


def merge_lora(base: Any, path: Path) -> torch.nn.Module:
    """The base with the adapter's weights added, all of it trainable."""
    merged: Any = load_lora(base, path)
    model = merged.merge_and_unload()
    model.requires_grad_(True)
    return model


def _targets(base: Any, lora_target: str) -> list[str]:
    """Last parts of module names, which every engine understands in an adapter's config."""
    linear = {name for name, module in base.named_modules() if isinstance(module, _LINEAR)}
    if lora_target == "all":
        return _all_targets(base, linear)
    names = [name.strip() for name in lora_target.split(",") if name.strip()]
    missing = [name for name in names if not _matches(name, linear)]
    if missing or not names:
        listed = ", ".join(missing) or "nothing"
        raise InvalidHyperparameters(
            f"'lora_target' names {listed}, which is no linear layer of this model.", "lora_target"
        )
    return sorted(set(names))


def _all_targets(base: Any, linear: set[str]) -> list[str]:
    """A last part that other modules share would adapt those too: then the full names stand."""
    output_layer = base.get_output_embeddings()
    others = {
        name.rpartition(".")[2]
        for name, module in base.named_modules()
        if name not in linear or module is output_layer
    }
    wanted = (name for name, module in base.named_modules() if module is not output_layer)
    targets = (name for name in wanted if name in linear)
    return sorted({_shortest(name, others) for name in targets})


def _shortest(name: str, taken: set[str]) -> str:
    last = name.rpartition(".")[2]
    return name if last in taken else last


def _matches(name: str, modules: Iterable[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for module in modules)
