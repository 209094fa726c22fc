"""LoRA through peft: fresh, continued, or merged into the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftType, get_peft_model

from workers.contract.parameters import FinetuningArguments
from workers.models.adapters import IncompleteAdapterError, load_adapter
from workers.trainer.failures import InvalidHyperparameters, TrainerError
from workers.trainer.targets import choose_targets


def add_lora(base: Any, arguments: FinetuningArguments) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """The model with fresh factors, and what the run's user should know of it."""
    has_dropout = arguments.lora_dropout > 0
    targets = choose_targets(base, arguments.lora_target, has_dropout=has_dropout)
    if arguments.use_dora and targets.parameters:
        raise InvalidHyperparameters(
            "'use_dora' cannot be used with this model: peft trains "
            f"{', '.join(targets.parameters)} without it only.",
            "use_dora",
        )
    config = LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=targets.modules,
        target_parameters=targets.parameters or None,
        use_rslora=arguments.use_rslora,
        use_dora=arguments.use_dora,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config), targets.notes


def load_lora(base: Any, path: Path, arguments: FinetuningArguments) -> torch.nn.Module:
    """Goes on training an adapter, in the shape it has; dropout is the new run's."""
    config = _config_of(path)
    if config.target_parameters and arguments.lora_dropout:
        raise InvalidHyperparameters(
            "'lora_dropout' must be 0 to go on from an adapter with target_parameters.",
            "lora_dropout",
        )
    config.lora_dropout = arguments.lora_dropout
    return _load(base, path, is_trainable=True, config=config)


def merge_lora(base: Any, path: Path) -> torch.nn.Module:
    """The base with the adapter's weights added, all of it trainable."""
    model = _load(base, path, config=_config_of(path)).merge_and_unload()
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


def _load(base: Any, path: Path, **options: Any) -> Any:
    try:
        return load_adapter(base, path, **options)
    except IncompleteAdapterError as error:
        raise InvalidHyperparameters(
            f"This adapter cannot be gone on from: {error}.", "adapter_name_or_path"
        ) from error


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
