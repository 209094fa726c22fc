"""What a trainer process is told (`TrainSpec`, one JSON file) and what it reports (`TrainEvent`,
one JSON object a line in the run's event file).

The parameters of a run are declared in `workers.contract.parameters`.
"""

from __future__ import annotations

import msgspec

from workers.contract.parameters import (
    Arguments,
    DataArguments,
    FinetuningArguments,
    ModelArguments,
    PPOArguments,
    TrainingArguments,
)

PICTURES = ("loss_curve.png", "loss_curve.svg")
"""What a run draws into its directory before it is completed, where its job wants it."""


class TrainSpec(Arguments, frozen=True):
    job_id: str
    output_dir: str
    """The run's own directory: `events.ndjson`, `checkpoints/step-N/`, `model/`. A trainer that
    finds whole checkpoints there goes on from the newest."""
    model: ModelArguments
    data: DataArguments
    finetuning: FinetuningArguments = FinetuningArguments()
    training: TrainingArguments = TrainingArguments()
    ppo: PPOArguments = PPOArguments()


# --- events ---------------------------------------------------------------------------------------


class TrainEventBase(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    seq: int
    """Rises by one a line over the whole run, restarts included: readers skip what they have."""
    at: float
    """Unix time in seconds."""


class Started(TrainEventBase, tag="started", frozen=True):
    total_steps: int
    num_examples: int
    resumed_from_step: int = 0


class Step(TrainEventBase, tag="step", frozen=True):
    step: int
    total_steps: int
    metrics: dict[str, float]
    """What the stage measures on the step's batches (`train_...`), and on one batch of the
    validation file (`valid_...`) where there is one."""
    learning_rate: float
    grad_norm: float
    trained_tokens: int
    """Prompt and response tokens passed through the model since the first step."""
    remaining_s: float
    """Estimate of the seconds to the end of training."""


class Evaluated(TrainEventBase, tag="evaluated", frozen=True):
    """A pass over the whole validation file."""

    step: int
    metrics: dict[str, float]
    """By names that begin with `full_valid_`."""


class CheckpointSaved(TrainEventBase, tag="checkpoint_saved", frozen=True):
    """`path` is whole and servable: an adapter directory, or a model directory for a full run."""

    step: int
    path: str
    metrics: dict[str, float] = {}
    """Of its step (`train_...`) and of the evaluation at it (`full_valid_...`)."""


class Warned(TrainEventBase, tag="warned", frozen=True):
    message: str


class Heartbeat(TrainEventBase, tag="heartbeat", frozen=True):
    """At least every 5 s while alive, whatever the step takes."""


class Stopped(TrainEventBase, tag="stopped", frozen=True):
    """SIGTERM was heeded: a checkpoint of `step` is whole and the process leaves with status 0."""

    step: int


class Completed(TrainEventBase, tag="completed", frozen=True):
    """`path` holds the final adapter or model."""

    step: int
    path: str
    trained_tokens: int


class TrainFailed(TrainEventBase, tag="failed", frozen=True):
    """`code` as in contract §8.6: invalid_training_file, invalid_validation_file, out_of_memory,
    invalid_hyperparameters, training_diverged, internal_error."""

    code: str
    message: str
    param: str | None = None


TrainEvent = (
    Started
    | Step
    | Evaluated
    | CheckpointSaved
    | Warned
    | Heartbeat
    | Stopped
    | Completed
    | TrainFailed
)
