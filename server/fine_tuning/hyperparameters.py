"""What can be set of a job, by its method, and how `auto` is settled.

Three, and `beta` of preferences, are OpenAI's; the rest are declared in
`workers.contract.parameters`. All go to `method.<type>.hyperparameters`; the deprecated top-level
`hyperparameters` takes those three alone.

`auto`, once the number of examples is known:
- `n_epochs`: 3, but more for few examples (up to 25, towards 100 examples seen in all) and fewer
  for very many (towards 25,000 seen).
- `batch_size`: 0.2 % of the examples, 1 to 256.
- `learning_rate_multiplier`: 1.
- `beta`: 0.1.

`num_train_epochs`, `per_device_train_batch_size` with `gradient_accumulation_steps`,
`learning_rate` and `pref_beta` take the places of these. The first two are settled; the multiplier
stays `auto` beside a `learning_rate`, and `beta` beside a `pref_beta`.

The multiplier scales a base rate of 5e-5 · (2000 / hidden_size)^0.775, ten times that for LoRA:
wider models take smaller steps, and low-rank updates larger ones. Preferences and ppo take a tenth
of it. A rate that no model is trained at is refused.
"""

from __future__ import annotations

import difflib
import math
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, create_model

from server.fine_tuning.declared import wire_fields
from server.fine_tuning.methods import METHODS, SUPERVISED, Method
from server.store.records import Job
from workers.contract.parameters import (
    Arguments,
    FinetuningType,
    Stage,
    must_merge,
    parameters,
    settable,
)

GroupT = TypeVar("GroupT", bound=Arguments)

AUTO = "auto"
Auto = Literal["auto"]

_MIN_EXAMPLES_SEEN = 100
_MAX_EXAMPLES_SEEN = 25_000
_DEFAULT_EPOCHS = 3
_MAX_AUTO_EPOCHS = 25
_BATCH_SHARE = 0.002
MAX_BATCH = 256
_BASE_RATE = 5e-5
_LORA_FACTOR = 10
_ADAPTERS = (FinetuningType.LORA, FinetuningType.OFT)
_STAGE_FACTORS = {Stage.DPO: 0.1, Stage.KTO: 0.1, Stage.PPO: 0.1}
_BETA = "beta"
_AUTO_BETA = 0.1
_REFERENCE_WIDTH = 2000
_WIDTH_EXPONENT = 0.775
_MAX_EXAMPLES_AT_ONCE = 16
_MAX_RATES = {"sgd": 10.0}
_MAX_ADAPTIVE_RATE = 0.05
"""Of optimisers whose steps do not shrink with the gradient."""


class OpenAIHyperparameters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    n_epochs: Annotated[int, Field(strict=True, ge=1, le=50)] | Auto = AUTO
    batch_size: Annotated[int, Field(strict=True, ge=1, le=MAX_BATCH)] | Auto = AUTO
    learning_rate_multiplier: (
        Annotated[float, Field(strict=True, ge=1e-4, le=1e4, allow_inf_nan=False)] | Auto
    ) = AUTO


class Hyperparameters(OpenAIHyperparameters):
    """OpenAI's three, and the declared parameters of a stage. What is not there is refused, not
    ignored."""

    method: ClassVar[Method]

    @classmethod
    def where(cls) -> str:
        """Its place in a request."""
        return where(cls.method.name)

    def arguments(self, group: type[GroupT], **own: object) -> GroupT:
        """The declared parameters of `group` as they were set, and `own` beside them."""
        names = {field.name for field in msgspec.structs.fields(group)}
        chosen = {name: value for name, value in self.model_dump().items() if name in names}
        return group(**{**chosen, **own})

    def of(self, name: str) -> Any:
        """A declared parameter; the default of one that belongs to another stage. Raises
        KeyError."""
        if name not in type(self).model_fields:
            return parameters()[name].default
        return getattr(self, name)

    @property
    def kind(self) -> FinetuningType:
        """Of the weights that are trained."""
        return self.of("finetuning_type")

    @property
    def rank(self) -> int:
        """Of the adapter that is served."""
        return int(self.of("lora_rank")) * (2 if self.of("pissa_convert") else 1)

    @property
    def result(self) -> FinetuningType:
        """What is served: an adapter, or a whole model."""
        is_adapter = self.kind is FinetuningType.LORA and self.of("merge") != "always"
        makes_whole = self.method.makes_reward_model or must_merge(self.of) is not None
        return FinetuningType.LORA if is_adapter and not makes_whole else FinetuningType.FULL


class _WithBeta(Hyperparameters):
    beta: Annotated[float, Field(strict=True, gt=0, le=2, allow_inf_nan=False)] | Auto = AUTO


def _of_method(method: Method) -> type[Hyperparameters]:
    fields = wire_fields(settable(method.stage))
    fields |= {name: (fields[name][0], value) for name, value in method.settled.items()}
    made = create_model(
        f"{method.title}Hyperparameters",
        __base__=_WithBeta if method.has_beta else Hyperparameters,
        __module__=__name__,
        **fields,
    )
    made.method = method
    return made


HYPERPARAMETERS: dict[str, type[Hyperparameters]] = {
    name: _of_method(method) for name, method in METHODS.items()
}
"""By the method."""
SupervisedHyperparameters = HYPERPARAMETERS[SUPERVISED.name]


def where(method: str) -> str:
    """The place of a method's parameters in a request."""
    return f"method.{method}.hyperparameters"


def given_of(job: Job) -> Hyperparameters:
    """What was set of a job."""
    return HYPERPARAMETERS[method_of(job)].model_validate(job.hyperparameters)


def method_of(job: Job) -> str:
    return str(job.plan.method["type"])


def advice(name: str) -> str | None:
    """What to tell somebody who set a parameter that is not there."""
    declared = settable()
    if name in declared:
        return f"It belongs to {declared[name].home}."
    if name == _BETA:
        return f"It belongs to {declared['pref_beta'].home}."
    near = difflib.get_close_matches(
        name, [*declared, *OpenAIHyperparameters.model_fields, _BETA], 1
    )
    return f"Did you mean '{near[0]}'?" if near else None


def settle(given: Hyperparameters, num_examples: int) -> Hyperparameters:
    """`auto` replaced by numbers."""
    num_examples = min(num_examples, given.of("max_samples") or num_examples)
    settled: dict[str, int | float] = {}
    if isinstance(given, _WithBeta) and given.beta == AUTO and given.of("pref_beta") is None:
        settled[_BETA] = _AUTO_BETA
    if given.n_epochs == AUTO:
        epochs: float | None = given.of("num_train_epochs")
        settled["n_epochs"] = auto_epochs(num_examples) if epochs is None else math.ceil(epochs)
    if given.batch_size == AUTO:
        auto = max(1, min(MAX_BATCH, int(num_examples * _BATCH_SHARE)))
        settled["batch_size"] = batch_given(given) or auto
    if given.learning_rate_multiplier == AUTO and given.of("learning_rate") is None:
        settled["learning_rate_multiplier"] = 1.0
    return filled(given.model_copy(update=settled))


def filled(settled: Hyperparameters) -> Hyperparameters:
    """With what follows from OpenAI's `n_epochs`, `batch_size` and `beta` under the trainer's
    names."""
    assert settled.n_epochs != AUTO
    assert settled.batch_size != AUTO
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    batch = split_batch(settled.batch_size)
    if batch_given(settled) is not None:
        batch = tuple(settled.of(name) or 1 for name in names)
    more: dict[str, object] = dict(zip(names, batch, strict=True))
    if settled.of("num_train_epochs") is None:
        more["num_train_epochs"] = float(settled.n_epochs)
    if isinstance(settled, _WithBeta) and settled.beta != AUTO:
        more["pref_beta"] = float(settled.beta)
    return settled.model_copy(update=more)


def batch_given(wanted: Hyperparameters) -> int | None:
    """The examples of a step, by the trainer's names; None where they name none."""
    at_once: int | None = wanted.of("per_device_train_batch_size")
    accumulation: int | None = wanted.of("gradient_accumulation_steps")
    if at_once is None and accumulation is None:
        return None
    return (at_once or 1) * (accumulation or 1)


def auto_epochs(num_examples: int) -> int:
    if num_examples * _DEFAULT_EPOCHS < _MIN_EXAMPLES_SEEN:
        return min(_MAX_AUTO_EPOCHS, max(_DEFAULT_EPOCHS, _MIN_EXAMPLES_SEEN // num_examples))
    if num_examples * _DEFAULT_EPOCHS > _MAX_EXAMPLES_SEEN:
        return max(1, _MAX_EXAMPLES_SEEN // num_examples)
    return _DEFAULT_EPOCHS


def learning_rate(settled: Hyperparameters, hidden_size: int | None) -> float:
    """The one that was set, else the multiplier's for a model of this width; an unknown width
    counts as 2000."""
    absolute: float | None = settled.of("learning_rate")
    if absolute is not None:
        return absolute
    assert settled.learning_rate_multiplier != AUTO
    width = _REFERENCE_WIDTH / (hidden_size or _REFERENCE_WIDTH)
    factor = _LORA_FACTOR if settled.kind in _ADAPTERS else 1
    factor *= _STAGE_FACTORS.get(settled.method.stage, 1.0)
    return settled.learning_rate_multiplier * _BASE_RATE * width**_WIDTH_EXPONENT * factor


def max_learning_rate(optim: str) -> float:
    return _MAX_RATES.get(optim, _MAX_ADAPTIVE_RATE)


def split_batch(batch_size: int) -> tuple[int, int]:
    """Examples at once and accumulation steps: exactly the batch asked for, in bounded memory."""
    at_once = next(n for n in range(_MAX_EXAMPLES_AT_ONCE, 0, -1) if batch_size % n == 0)
    return at_once, batch_size // at_once
