"""Adapters through peft: fresh, continued, or merged into the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PeftType,
    get_peft_model,
    get_peft_model_state_dict,
)

from workers.contract.parameters import FinetuningArguments
from workers.models.adapters import IncompleteAdapterError, load_adapter
from workers.trainer.failures import InvalidHyperparameters, TrainerError
from workers.trainer.targets import choose_targets, names_in


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
        init_lora_weights=_initialisation(arguments),
        modules_to_save=_whole_modules(base, arguments.additional_target),
        ensure_weight_tying=arguments.additional_target is not None,
        task_type="CAUSAL_LM",
    )
    if arguments.pissa_init and targets.parameters:
        raise InvalidHyperparameters(
            f"'pissa_init' cannot be used with {', '.join(targets.parameters)} of this model: name "
            "other layers in 'lora_target'.",
            "pissa_init",
        )
    return _in_float32(get_peft_model(base, config)), targets.notes


def add_oft(base: Any, arguments: FinetuningArguments) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """The model with layers that rotate their inputs (OFT, arXiv:2306.07280)."""
    targets = choose_targets(base, arguments.oft_target, has_dropout=True, param="oft_target")
    config = OFTConfig(
        r=arguments.oft_rank,
        oft_block_size=0 if arguments.oft_rank else arguments.oft_block_size,
        module_dropout=arguments.module_dropout,
        target_modules=targets.modules,
        task_type="CAUSAL_LM",
    )
    return _in_float32(get_peft_model(base, config)), targets.notes


def _in_float32(module: Any) -> Any:
    """What is trained, also where it is a copy of the base's own."""
    for weight in module.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return module


def _initialisation(arguments: FinetuningArguments) -> Any:
    if not arguments.pissa_init:
        return True
    exact = arguments.pissa_iter == -1
    return "pissa" if exact else f"pissa_niter_{arguments.pissa_iter}"


def _whole_modules(base: Any, listed: str | None) -> list[str] | None:
    """Raises InvalidHyperparameters."""
    if listed is None:
        return None
    names = names_in(listed)
    there = {full for full, _ in base.named_modules()}
    for name in names:
        if not any(full == name or full.endswith(f".{name}") for full in there):
            raise InvalidHyperparameters(
                f"'additional_target' names {name}, which is no module of this model.",
                "additional_target",
            )
    return names


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


def factors_of(module: Any) -> dict[str, torch.Tensor]:
    """Copies of the factors, by their names in an adapter's file."""
    weights = get_peft_model_state_dict(module, save_embedding_layers=False)
    return {name: weight.detach().cpu().clone() for name, weight in weights.items()}


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
