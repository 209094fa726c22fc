"""Optimisers and learning rate schedules by their transformers names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.optimization import get_scheduler

from workers.contract.parameters import TrainingArguments
from workers.contract.training import TrainSpec
from workers.trainer.models import TrainedModel

_Groups = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Optimisation:
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler


def build_optimisation(spec: TrainSpec, model: TrainedModel, total_steps: int) -> Optimisation:
    arguments = spec.training
    groups = _groups(model, arguments, spec.finetuning.loraplus_lr_ratio)
    optimiser = _OPTIMISERS[arguments.optim](groups, arguments)
    by_ratio = math.ceil(total_steps * arguments.warmup_ratio)
    schedule = get_scheduler(
        arguments.lr_scheduler_type,
        optimiser,
        num_warmup_steps=arguments.warmup_steps or by_ratio,
        num_training_steps=total_steps,
    )
    return Optimisation(optimiser, schedule)


def _groups(model: TrainedModel, arguments: TrainingArguments, ratio: float | None) -> _Groups:
    """Biases and norms are not decayed. With LoRA+'s `ratio`, second factors and vectors learn by
    so much faster, as in `peft.optimizers.create_loraplus_optimizer`."""
    sorts: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, weight in model.trainable():
        is_vector = weight.ndim <= 1
        is_fast = ratio is not None and (is_vector or "lora_B" in name)
        is_kept = is_vector and "lora_magnitude_vector" not in name
        sorts.setdefault((is_fast, is_kept), []).append(weight)
    rate = arguments.learning_rate
    return [
        {
            "params": weights,
            "lr": rate * (ratio or 1.0) if is_fast else rate,
            "weight_decay": 0.0 if is_kept else arguments.weight_decay,
        }
        for (is_fast, is_kept), weights in sorted(sorts.items(), key=lambda item: item[0])
    ]


def _adamw(groups: _Groups, arguments: TrainingArguments) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        groups,
        lr=arguments.learning_rate,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        eps=arguments.adam_epsilon,
        fused=True,
    )


def _adafactor(groups: _Groups, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """As transformers' Trainer sets it up: a fixed rate, no relative steps."""
    from transformers.optimization import Adafactor

    return Adafactor(groups, lr=arguments.learning_rate, scale_parameter=False, relative_step=False)


def _sgd(groups: _Groups, arguments: TrainingArguments) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=arguments.learning_rate)


def _adagrad(groups: _Groups, arguments: TrainingArguments) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(groups, lr=arguments.learning_rate)


def _rmsprop(groups: _Groups, arguments: TrainingArguments) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(groups, lr=arguments.learning_rate)


_OPTIMISERS: dict[str, Callable[[_Groups, TrainingArguments], torch.optim.Optimizer]] = {
    "adamw_torch": _adamw,
    "adamw_torch_fused": _adamw,
    "adafactor": _adafactor,
    "sgd": _sgd,
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
}
