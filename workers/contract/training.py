"""What a trainer process is told (`TrainSpec`, one JSON file) and what it reports (`TrainEvent`,
one JSON object a line in the run's event file).

Argument names, defaults and meanings are LLaMA-Factory's and Hugging Face's, grouped as there.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Stage(StrEnum):
    PT = "pt"
    SFT = "sft"


class FinetuningType(StrEnum):
    LORA = "lora"
    FULL = "full"


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A parameter is honoured or rejected: an unknown one does not decode."""


class ModelArguments(_Strict, frozen=True):
    model_name_or_path: str
    """A local directory by now; the supervisor has resolved hub ids."""
    adapter_name_or_path: str | None = None
    """Adapter directory to go on training from: its rank, alpha and targets stay as they are. A
    full run starts from the base with the adapter merged in."""
    template: str | None = None
    """A named chat format; None is the model's own Jinja template."""
    template_folders: tuple[str, ...] = ()
    """Folders with chat formats of the operator's own."""
    default_system: str | None = None
    """The system message of conversations that have none."""
    tool_format: str | None = None
    """The tool-call dialect, where it is not the chat format's own."""
    trust_remote_code: bool = False
    compute_dtype: str = "float32"
    device: str = "auto"
    train_from_scratch: bool = False
    """Random weights from the model's config (pretraining)."""


class DataArguments(_Strict, frozen=True):
    train_file: str
    validation_file: str | None = None
    cutoff_len: int = 2048
    """Longer examples are cut; the model's context is the limit where it is shorter."""
    packing: bool = False
    packing_len: int | None = None
    """Tokens of a packed row, or those of the longest example; None: `cutoff_len`."""
    train_on_prompt: bool = False
    mask_history: bool = False


class FinetuningArguments(_Strict, frozen=True):
    stage: Stage = Stage.SFT
    finetuning_type: FinetuningType = FinetuningType.LORA
    lora_rank: int = 8
    lora_alpha: int | None = None
    """None: twice the rank."""
    lora_dropout: float = 0.0
    lora_target: str = "all"
    """`all` linear layers but the output layer, or names separated by commas."""

    @property
    def alpha(self) -> int:
        return 2 * self.lora_rank if self.lora_alpha is None else self.lora_alpha


class TrainingArguments(_Strict, frozen=True):
    num_train_epochs: float = 3.0
    max_steps: int = -1
    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    learning_rate: float = 5e-5
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optim: str = "adamw_torch"
    seed: int = 42
    logging_steps: int = 1
    eval_steps: int = 0
    """Full passes over the validation file, every so many steps; 0: at the end of each epoch."""
    save_steps: int = 0
    """Checkpoints every so many steps; 0: at the end of each epoch."""
    save_total_limit: int = 3
    """Whole checkpoints kept as models; the newest is never removed."""


class TrainSpec(_Strict, frozen=True):
    job_id: str
    output_dir: str
    """The run's own directory: `events.ndjson`, `checkpoints/step-N/`, `model/`. A trainer that
    finds whole checkpoints there goes on from the newest."""
    model: ModelArguments
    data: DataArguments
    finetuning: FinetuningArguments = FinetuningArguments()
    training: TrainingArguments = TrainingArguments()


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
    train_loss: float
    train_mean_token_accuracy: float
    learning_rate: float
    grad_norm: float
    trained_tokens: int
    """Prompt and response tokens passed through the model since the first step."""
    remaining_s: float
    """Estimate of the seconds to the end of training."""
    valid_loss: float | None = None
    """Loss on one batch of the validation file; None without one."""
    valid_mean_token_accuracy: float | None = None


class Evaluated(TrainEventBase, tag="evaluated", frozen=True):
    """A pass over the whole validation file."""

    step: int
    full_valid_loss: float
    full_valid_mean_token_accuracy: float


class CheckpointSaved(TrainEventBase, tag="checkpoint_saved", frozen=True):
    """`path` is whole and servable: an adapter directory, or a model directory for a full run."""

    step: int
    path: str
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


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
