"""Why a run fails, in the words its user reads.

A message names lines, fields and limits, never a row's text: it reaches logs and job errors.
"""

from __future__ import annotations

import errno


class TrainerError(Exception):
    """A failure with a code of `TrainFailed`; `param` is the argument or file to name."""

    code = "internal_error"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidHyperparameters(TrainerError):
    """An argument, or a combination of arguments, that this trainer cannot honour."""

    code = "invalid_hyperparameters"


class InvalidTrainingFile(TrainerError):
    code = "invalid_training_file"


class InvalidValidationFile(TrainerError):
    code = "invalid_validation_file"


class OutOfMemory(TrainerError):
    code = "out_of_memory"


class TrainingDiverged(TrainerError):
    """Numbers left their range; a retry would do the same."""

    code = "training_diverged"

    @classmethod
    def at_first_step(cls, what: str) -> TrainingDiverged:
        return cls(
            f"Training cannot begin: {what} is not finite at the first step, before any weight has "
            "changed. The base model, or its compute_dtype, does not compute these examples."
        )

    @classmethod
    def at(cls, step: int, what: str, learning_rate: float) -> TrainingDiverged:
        return cls(
            f"Training diverged: {what} is not finite at step {step}, at a learning rate of "
            f"{learning_rate:.3g}. Checkpoints of earlier steps stay. Try a tenth of the "
            "learning_rate_multiplier, some warmup_ratio, or a smaller max_grad_norm."
        )


class StopRequested(Exception):
    """Raised between units of work once the run has been asked to leave."""


def as_trainer_error(error: Exception) -> TrainerError:
    """What to tell of an unexpected `error`: its kind, never its text, which may quote a row."""
    if isinstance(error, TrainerError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory(
            "The training device ran out of memory. Try a smaller batch size or shorter examples."
        )
    if is_no_room(error):
        return TrainerError("There is no space left for the run's checkpoints.")
    return TrainerError(f"The trainer failed unexpectedly ({type(error).__name__}).")


def is_no_room(error: BaseException) -> bool:
    """safetensors passes the system's error on in its text alone."""
    numbers = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno in numbers
    return any(f"(os error {number})" in str(error) for number in numbers)


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch has a type for a full accelerator only; a full host is a RuntimeError whose text
    comes from c10/core/impl/alloc_cpu.cpp."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
