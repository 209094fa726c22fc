"""LoRA through peft: fresh, continued, or merged into the base."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from workers.contract.training import FinetuningArguments
from workers.trainer.failures import InvalidHyperparameters, TrainerError


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


def _targets(base: Any, lora_target: str) -> str | list[str]:
    if lora_target == "all":
        return "all-linear"
    names = [name.strip() for name in lora_target.split(",") if name.strip()]
    modules = [name for name, module in base.named_modules() if _is_linear(module)]
    missing = [name for name in names if not _matches(name, modules)]
    if missing or not names:
        listed = ", ".join(missing) or "nothing"
        raise InvalidHyperparameters(
            f"'lora_target' names {listed}, which is no linear layer of this model.", "lora_target"
        )
    return names


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)


def _matches(name: str, modules: Iterable[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for module in modules)
