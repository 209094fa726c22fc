"""What can be set of a supervised job, and how `auto` is settled.

The first three are OpenAI's; the rest are ours, with LLaMA-Factory's names. All go to
`method.supervised.hyperparameters`; the deprecated top-level `hyperparameters` takes OpenAI's only.

`auto`, once the number of examples is known:
- `n_epochs`: 3, but more for few examples (up to 25, towards 100 examples seen in all) and fewer
  for very many (towards 25,000 seen).
- `batch_size`: 0.2 % of the examples, 1 to 256.
- `learning_rate_multiplier`: 1.

The multiplier scales a base rate of 5e-5 · (2000 / hidden_size)^0.775, ten times that for LoRA:
wider models take smaller steps, and low-rank updates larger ones. A rate that no model is trained
at is refused.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.wire import Count

AUTO = "auto"
Auto = Literal["auto"]

_MIN_EXAMPLES_SEEN = 100
_MAX_EXAMPLES_SEEN = 25_000
_DEFAULT_EPOCHS = 3
_MAX_AUTO_EPOCHS = 25
_BATCH_SHARE = 0.002
_MAX_BATCH = 256
_BASE_RATE = 5e-5
_LORA_FACTOR = 10
_REFERENCE_WIDTH = 2000
_WIDTH_EXPONENT = 0.775
_MAX_EXAMPLES_AT_ONCE = 16
_MAX_RATES = {"sgd": 10.0}
_MAX_ADAPTIVE_RATE = 0.05
"""Of optimisers whose steps do not shrink with the gradient."""


class FinetuningKind(StrEnum):
    LORA = "lora"
    FULL = "full"


class OpenAIHyperparameters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    n_epochs: Annotated[int, Field(strict=True, ge=1, le=50)] | Auto = AUTO
    batch_size: Annotated[int, Field(strict=True, ge=1, le=_MAX_BATCH)] | Auto = AUTO
    learning_rate_multiplier: (
        Annotated[float, Field(strict=True, ge=1e-4, le=1e4, allow_inf_nan=False)] | Auto
    ) = AUTO


class SupervisedHyperparameters(OpenAIHyperparameters):
    """OpenAI's and ours. A knob that is not here is refused, not ignored."""

    finetuning_type: FinetuningKind = FinetuningKind.LORA
    lora_rank: Annotated[int, Field(strict=True, ge=1, le=512)] = 8
    lora_alpha: Annotated[int, Field(strict=True, ge=1, le=4096)] | None = None
    """None: twice the rank."""
    lora_dropout: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0
    lora_target: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+(,[A-Za-z0-9_.]+)*$")] = "all"
    cutoff_len: Annotated[Count, Field(ge=2)] | None = None
    """None: the model's context, or what the operator allows where that is shorter."""
    packing: Annotated[bool, Field(strict=True)] = False
    train_on_prompt: Annotated[bool, Field(strict=True)] = False
    mask_history: Annotated[bool, Field(strict=True)] = False
    max_steps: Annotated[Count, Field(ge=1)] | None = None
    """Ends the training after so many steps, whatever `n_epochs` says."""
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    ] = "linear"
    warmup_ratio: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0
    weight_decay: Annotated[float, Field(strict=True, ge=0, le=10)] = 0.0
    max_grad_norm: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 1.0
    optim: Literal["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"] = (
        "adamw_torch"
    )
    save_steps: Count = 0
    """Checkpoints every so many steps; 0: at the end of each epoch."""
    eval_steps: Count = 0
    """Whole passes over the validation file every so many steps; 0: at the end of each epoch."""
    save_total_limit: Annotated[int, Field(strict=True, ge=1, le=50)] = 3
    """Newest checkpoints that stay; older ones stop answering."""


def settle(given: SupervisedHyperparameters, num_examples: int) -> SupervisedHyperparameters:
    """`auto` replaced by numbers."""
    settled: dict[str, int | float] = {}
    if given.n_epochs == AUTO:
        settled["n_epochs"] = auto_epochs(num_examples)
    if given.batch_size == AUTO:
        settled["batch_size"] = max(1, min(_MAX_BATCH, int(num_examples * _BATCH_SHARE)))
    if given.learning_rate_multiplier == AUTO:
        settled["learning_rate_multiplier"] = 1.0
    return given.model_copy(update=settled)


def auto_epochs(num_examples: int) -> int:
    if num_examples * _DEFAULT_EPOCHS < _MIN_EXAMPLES_SEEN:
        return min(_MAX_AUTO_EPOCHS, max(_DEFAULT_EPOCHS, _MIN_EXAMPLES_SEEN // num_examples))
    if num_examples * _DEFAULT_EPOCHS > _MAX_EXAMPLES_SEEN:
        return max(1, _MAX_EXAMPLES_SEEN // num_examples)
    return _DEFAULT_EPOCHS


def learning_rate(settled: SupervisedHyperparameters, hidden_size: int | None) -> float:
    """The trainer's rate for a model of this width; an unknown width counts as 2000."""
    assert settled.learning_rate_multiplier != AUTO
    width = _REFERENCE_WIDTH / (hidden_size or _REFERENCE_WIDTH)
    factor = _LORA_FACTOR if settled.finetuning_type is FinetuningKind.LORA else 1
    return settled.learning_rate_multiplier * _BASE_RATE * width**_WIDTH_EXPONENT * factor


def max_learning_rate(optim: str) -> float:
    return _MAX_RATES.get(optim, _MAX_ADAPTIVE_RATE)


def split_batch(batch_size: int) -> tuple[int, int]:
    """Examples at once and accumulation steps: exactly the batch asked for, in bounded memory."""
    at_once = next(n for n in range(_MAX_EXAMPLES_AT_ONCE, 0, -1) if batch_size % n == 0)
    return at_once, batch_size // at_once
