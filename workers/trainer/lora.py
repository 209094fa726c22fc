"""LoRA through peft: fresh, continued, or merged into the base."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, get_peft_model
from transformers.pytorch_utils import Conv1D

from workers.contract.training import FinetuningArguments
from workers.trainer.failures import InvalidHyperparameters, TrainerError

_LINEAR = (torch.nn.Linear, Conv1D)


def add_lora(base: Any, arguments: FinetuningArguments) -> torch.nn.Module:
    config = LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=_targets(base, arguments.lora_target),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config)


def load_lora(base: Any, path: Path, arguments: FinetuningArguments) -> torch.nn.Module:
    """Goes on training an adapter, in the shape it has; dropout is the new run's."""
    config = _config_of(path)
    config.lora_dropout = arguments.lora_dropout
    return PeftModel.from_pretrained(base, str(path), is_trainable=True, config=config)


def merge_lora(base: Any, path: Path) -> torch.nn.Module:
    """The base with the adapter's weights added, all of it trainable."""
    merged: Any = PeftModel.from_pretrained(base, str(path), config=_config_of(path))
    model = merged.merge_and_unload()
    model.requires_grad_(True)
    return model


def kept_shape(path: Path, arguments: FinetuningArguments) -> str | None:
    """What to tell where the adapter's shape is not the one that the arguments name."""
    config = _config_of(path)
    if config.r == arguments.lora_rank and config.lora_alpha == arguments.alpha:
        return None
    return (
        f"Training goes on in the shape of the earlier adapter: rank {config.r}, "
        f"alpha {config.lora_alpha}."
    )


def _config_of(path: Path) -> Any:
    try:
        config = PeftConfig.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainerError(
            "The adapter to go on from cannot be read.", "adapter_name_or_path"
        ) from error
    if config.peft_type != PeftType.LORA:
        raise InvalidHyperparameters(
            "Only a LoRA adapter can be trained further.", "adapter_name_or_path"
        )
    return config


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
