"""Checks what the types of `TrainSpec` cannot say, before anything heavy is imported."""

from __future__ import annotations

import math

from workers.contract.training import FinetuningType, Stage, TrainSpec
from workers.trainer.failures import InvalidHyperparameters

COMPUTE_DTYPES = ("float32", "bfloat16")
OPTIMISERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")
SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)


def check_arguments(spec: TrainSpec) -> None:
    """Raises InvalidHyperparameters."""
    _check_model(spec)
    _check_ranges(spec)
    _check_names(spec)
    if spec.finetuning.stage is Stage.PT and (spec.data.train_on_prompt or spec.data.mask_history):
        name = "train_on_prompt" if spec.data.train_on_prompt else "mask_history"
        raise InvalidHyperparameters(f"'{name}' has no meaning in pretraining.", name)
    if spec.data.train_on_prompt and spec.data.mask_history:
        raise InvalidHyperparameters(
            "'train_on_prompt' and 'mask_history' exclude each other.", "mask_history"
        )


def _check_model(spec: TrainSpec) -> None:
    if spec.model.train_from_scratch:
        if spec.finetuning.finetuning_type is not FinetuningType.FULL:
            raise InvalidHyperparameters(
                "'train_from_scratch' needs finetuning_type 'full'.", "train_from_scratch"
            )
        if spec.model.adapter_name_or_path is not None:
            raise InvalidHyperparameters(
                "A model trained from scratch cannot start from an adapter.",
                "adapter_name_or_path",
            )


def _check_ranges(spec: TrainSpec) -> None:
    training, finetuning = spec.training, spec.finetuning
    at_least: tuple[tuple[str, float, float], ...] = (
        ("cutoff_len", spec.data.cutoff_len, 2),
        ("packing_len", spec.data.packing_len or 2, 2),
        ("lora_rank", finetuning.lora_rank, 1),
        ("lora_alpha", finetuning.lora_alpha or 1, 1),
        ("per_device_train_batch_size", training.per_device_train_batch_size, 1),
        ("gradient_accumulation_steps", training.gradient_accumulation_steps, 1),
        ("warmup_ratio", training.warmup_ratio, 0),
        ("weight_decay", training.weight_decay, 0),
        ("max_grad_norm", training.max_grad_norm, 0),
        ("logging_steps", training.logging_steps, 1),
        ("eval_steps", training.eval_steps, 0),
        ("save_steps", training.save_steps, 0),
        ("save_total_limit", training.save_total_limit, 1),
        ("seed", training.seed, 0),
    )
    for name, value, least in at_least:
        if not math.isfinite(value) or value < least:
            raise InvalidHyperparameters(f"'{name}' is {value}; it must be at least {least}.", name)
    if not 0 <= finetuning.lora_dropout < 1:
        raise InvalidHyperparameters("'lora_dropout' must be in [0, 1).", "lora_dropout")
    if training.warmup_ratio > 1:
        raise InvalidHyperparameters("'warmup_ratio' must be in [0, 1].", "warmup_ratio")
    for name, value in (
        ("learning_rate", training.learning_rate),
        ("num_train_epochs", training.num_train_epochs),
    ):
        if not math.isfinite(value) or value <= 0:
            raise InvalidHyperparameters(f"'{name}' is {value}; it must be above 0.", name)
    if training.max_steps == 0 or training.max_steps < -1:
        raise InvalidHyperparameters(
            "'max_steps' must be above 0, or -1 to go by epochs.", "max_steps"
        )


def _check_names(spec: TrainSpec) -> None:
    for name, value, known in (
        ("compute_dtype", spec.model.compute_dtype, COMPUTE_DTYPES),
        ("optim", spec.training.optim, OPTIMISERS),
        ("lr_scheduler_type", spec.training.lr_scheduler_type, SCHEDULES),
    ):
        if value not in known:
            raise InvalidHyperparameters(
                f"'{name}' is '{value}'; this trainer knows {', '.join(known)}.", name
            )
