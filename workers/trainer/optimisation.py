"""Optimisers and learning rate schedules by their transformers names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.optimization import get_scheduler

from workers.contract.parameters import TrainingArguments
from workers.trainer.models import TrainedModel

_Groups = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Optimisation:
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler


def build_optimisation(
    arguments: TrainingArguments, model: TrainedModel, total_steps: int
) -> Optimisation:
    optimiser = _OPTIMISERS[arguments.optim](
        _groups(model, arguments.weight_decay), arguments.learning_rate
    )
    schedule = get_scheduler(
        arguments.lr_scheduler_type,
        optimiser,
        num_warmup_steps=math.ceil(total_steps * arguments.warmup_ratio),
        num_training_steps=total_steps,
    )
    return Optimisation(optimiser, schedule)


def _groups(model: TrainedModel, weight_decay: float) -> _Groups:
    """Biases and norms are not decayed."""
    decayed = [weight for _, weight in model.trainable() if weight.ndim > 1]
    others = [weight for _, weight in model.trainable() if weight.ndim <= 1]
    groups: _Groups = [{"params": decayed, "weight_decay": weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    return groups


def _adamw(groups: _Groups, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def _adafactor(groups: _Groups, learning_rate: float) -> torch.optim.Optimizer:
    """As transformers' Trainer sets it up: a fixed rate, no relative steps."""
    from transformers.optimization import Adafactor

    return Adafactor(groups, lr=learning_rate, scale_parameter=False, relative_step=False)


def _sgd(groups: _Groups, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=learning_rate)


def _adagrad(groups: _Groups, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(groups, lr=learning_rate)


def _rmsprop(groups: _Groups, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(groups, lr=learning_rate)


_OPTIMISERS: dict[str, Callable[[_Groups, float], torch.optim.Optimizer]] = {
    "adamw_torch": _adamw,
    "adamw_torch_fused": _adamw,
    "adafactor": _adafactor,
    "sgd": _sgd,
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
}
