"""Checks what the declarations of parameters cannot say, before anything heavy is imported."""

from __future__ import annotations

import msgspec

from workers.contract.conflicts import find_conflict
from workers.contract.parameters import LOSS_OF, FinetuningType, Stage, parameters
from workers.contract.training import TrainSpec
from workers.trainer.failures import InvalidHyperparameters


def check_arguments(spec: TrainSpec) -> None:
    """Raises InvalidHyperparameters."""
    _check_stage(spec)
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
    values = {
        name: value
        for group in (spec.data, spec.finetuning, spec.training, spec.ppo)
        for name, value in msgspec.structs.asdict(group).items()
    }
    found = find_conflict(values.get)
    if found is not None:
        raise InvalidHyperparameters(found.reason, found.name)
    if spec.data.val_size and spec.data.validation_file is not None:
        raise InvalidHyperparameters(
            "'val_size' is for runs without a validation file.", "val_size"
        )
    is_measured = bool(spec.data.val_size) or spec.data.validation_file is not None
    for name in ("early_stopping_steps", "load_best_model_at_end"):
        if getattr(spec.training, name) and not is_measured:
            raise InvalidHyperparameters(f"'{name}' needs a validation file or 'val_size'.", name)
    _check_loss(spec)
    _check_ppo(spec)


def _check_loss(spec: TrainSpec) -> None:
    """What belongs to other losses of pairs has its default."""
    given = spec.finetuning
    for name, loss in LOSS_OF.items():
        default = parameters()[name].default
        if given.pref_loss != loss and getattr(given, name) != default:
            raise InvalidHyperparameters(f"'{name}' belongs to pref_loss {loss}.", name)


def _check_ppo(spec: TrainSpec) -> None:
    if spec.finetuning.stage is not Stage.PPO:
        return
    if spec.ppo.reward_model is None:
        raise InvalidHyperparameters("'reward_model' is needed for stage ppo.", "reward_model")
    if spec.data.validation_file is not None:
        raise InvalidHyperparameters(
            "Stage ppo has no loss on a validation file.", "validation_file"
        )


def _check_stage(spec: TrainSpec) -> None:
    """What belongs to other stages, or to other kinds of fine-tuning, has its default."""
    stage, kind = spec.finetuning.stage, spec.finetuning.finetuning_type
    for group in (spec.data, spec.finetuning, spec.training, spec.ppo):
        for name, declared in parameters((type(group),)).items():
            is_set = getattr(group, name) != declared.default
            if is_set and not declared.is_of(stage=stage, kind=kind):
                raise InvalidHyperparameters(
                    f"'{name}' belongs to {declared.home}, not to stage {stage} with {kind}.", name
                )
