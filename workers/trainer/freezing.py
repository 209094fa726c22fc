"""Which weights of a whole model are trained.

A model's layers are the longest list of modules in it, as in every decoder of transformers.
"""

from __future__ import annotations

from typing import Any

import torch

from workers.contract.parameters import FinetuningArguments
from workers.trainer.failures import InvalidHyperparameters
from workers.trainer.targets import names_in


def freeze(base: Any, arguments: FinetuningArguments) -> None:
    """Leaves what the arguments name to be trained. Raises InvalidHyperparameters."""
    layers = decoder_layers(base)
    chosen = _chosen(len(layers), arguments.freeze_trainable_layers)
    base.requires_grad_(False)
    names = names_in(arguments.freeze_trainable_modules)
    for number in chosen:
        parts = dict(layers[number].named_children())
        for name in parts if names == ["all"] else names:
            _part(parts, name, "freeze_trainable_modules").requires_grad_(True)
    outside = _outside(base, layers)
    for name in names_in(arguments.freeze_extra_modules or ""):
        _part(outside, name, "freeze_extra_modules").requires_grad_(True)


def decoder_layers(base: Any) -> torch.nn.ModuleList:
    lists = [each for each in base.modules() if isinstance(each, torch.nn.ModuleList)]
    if not lists:
        raise InvalidHyperparameters("This model has no list of layers.", "finetuning_type")
    return max(lists, key=len)


def _chosen(total: int, number: int) -> list[int]:
    return list(range(max(0, total - number), total) if number > 0 else range(min(-number, total)))


def _outside(base: Any, layers: torch.nn.ModuleList) -> dict[str, torch.nn.Module]:
    """Modules with weights outside of the layers, by the last part of their names."""
    inside = set(layers.modules())
    return {
        name.rpartition(".")[2]: module
        for name, module in base.named_modules()
        if module not in inside and any(True for _ in module.parameters(recurse=False))
    }


def _part(parts: dict[str, torch.nn.Module], name: str, param: str) -> torch.nn.Module:
    """Raises InvalidHyperparameters."""
    if name not in parts:
        there = ", ".join(sorted(parts))
        raise InvalidHyperparameters(f"'{param}' names {name}; there are {there}.", param)
    return parts[name]
