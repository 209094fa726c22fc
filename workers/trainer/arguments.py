"""Checks what the declarations of parameters cannot say, before anything heavy is imported."""

from __future__ import annotations

from workers.contract.parameters import LOSS_OF, FinetuningType, parameters
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
    if spec.data.train_on_prompt and spec.data.mask_history:
        raise InvalidHyperparameters(
            "'train_on_prompt' and 'mask_history' exclude each other.", "mask_history"
        )

    _check_loss(spec)


def _check_loss(spec: TrainSpec) -> None:
    """What belongs to other losses of pairs has its default."""
    given = spec.finetuning
    for name, loss in LOSS_OF.items():
        default = parameters()[name].default
        if given.pref_loss != loss and getattr(given, name) != default:
            raise InvalidHyperparameters(f"'{name}' belongs to pref_loss {loss}.", name)


def _check_stage(spec: TrainSpec) -> None:
    """What belongs to other stages has its default."""
    stage = spec.finetuning.stage
    for group in (spec.data, spec.finetuning, spec.training):
        for name, declared in parameters((type(group),)).items():
            if not declared.is_of(stage=stage) and getattr(group, name) != declared.default:
                raise InvalidHyperparameters(
                    f"'{name}' belongs to {declared.home}, not to stage {stage}.", name
                )
