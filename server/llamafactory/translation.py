"""A LLaMA-Factory config becomes a job request of ours, and each of its keys gets a verdict.

Nothing is looked up and nothing raises: what cannot be is a verdict, with the error that says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from server.broken_rules import ErrorDetails
from server.errors import InvalidRequest, invalid_value, unsupported_parameter, unsupported_value
from server.fine_tuning.hyperparameters import HYPERPARAMETERS, Hyperparameters
from server.fine_tuning.methods import METHODS
from server.llamafactory.keys import (
    READ_IN,
    TABLE,
    Becomes,
    Dropped,
    Field,
    OfEntry,
    Refused,
    Renamed,
)
from server.llamafactory.values import as_declared, names_in
from server.validation import translate as api_error
from workers.contract.conflicts import find_conflict
from workers.contract.parameters import LOSS_OF, FinetuningType, Parameter, Stage, settable

WHERE = "llamafactory"
"""The config's place in a request."""
_MAX_KEY_CHARS = 64
"""Of an unknown key, in what is said of it."""
_MAX_COMPARED = 4
"""Unknown keys that are compared with all that there are."""
_SEED = 42
_DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 3.0,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-5,
}
"""LLaMA-Factory's, of the parameters that OpenAI's `auto` would settle otherwise."""
_PACKED_STAGE = Stage.PT
"""It packs examples unless the config says otherwise."""
_STRATEGIES = {"eval_steps": "eval_strategy", "save_steps": "save_strategy"}
_OF_ADAPTER = frozenset({"lora_rank", "lora_alpha", "lora_target", "use_rslora", "use_dora"})
"""What an adapter has, once it is there."""
_INSTEAD = {each.name: key for key, each in TABLE.items() if isinstance(each, Renamed)}
"""The key that stands in a parameter's place, unless it is null or false."""
_IGNORED = frozenset({"simpo_gamma"})
"""Parameters of one pref_loss that LLaMA-Factory ignores with another; the rest it refuses."""
_PREF_LOSS = settable()["pref_loss"].default
_NO_LIMIT = "asks for no limit"
_NULL = "null asks for nothing"
_PLAIN = "asks for what a job does anyway"


class State(StrEnum):
    HONOURED = "honoured"
    DROPPED = "dropped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    key: str
    state: State
    told: str
    """What it becomes, or why not."""
    error: InvalidRequest | None = None
    """Of a key that is refused."""


@dataclass(slots=True)
class Translation:
    stage: str
    finetuning_type: str
    method: str | None
    """The job's `method.type`; None for a stage that jobs do not have."""
    model: str | None = None
    adapter: str | None = None
    datasets: tuple[str, ...] = ()
    eval_datasets: tuple[str, ...] = ()
    seed: Any = _SEED
    hyperparameters: dict[str, Any] = field(default_factory=dict[str, Any])
    of_entry: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the config says of the model's entry."""
    keys: dict[str, str] = field(default_factory=dict[str, str])
    """The config's key of each hyperparameter that has another name there."""
    verdicts: dict[str, Verdict] = field(default_factory=dict[str, Verdict])
    num_unknown: int = 0

    @property
    def refusal(self) -> InvalidRequest | None:
        """Of the first key that is refused."""
        return next((each.error for each in self.verdicts.values() if each.error), None)

    def honours(self, key: str) -> bool:
        verdict = self.verdicts.get(key)
        return verdict is not None and verdict.state is State.HONOURED

    def dropped(self) -> dict[str, str]:
        """The reasons, by key."""
        return {
            key: each.told for key, each in self.verdicts.items() if each.state is State.DROPPED
        }


def translate(config: Mapping[str, Any]) -> Translation:
    stage = config.get("stage") or "sft"
    kind = config.get("finetuning_type") or FinetuningType.LORA.value
    made = Translation(str(stage), str(kind), stages().get(str(stage)))
    declared = settable()
    for key, value in config.items():
        _judge(made, declared, key, value, config)
    for name, default in _DEFAULTS.items():
        made.hyperparameters.setdefault(name, default)
    if made.stage == _PACKED_STAGE:
        made.hyperparameters.setdefault("packing", True)
    _validate(made)
    return made


def stages() -> dict[str, str]:
    """The stages that jobs have, each with its method: of several the first."""
    found: dict[str, str] = {}
    for name, each in METHODS.items():
        found.setdefault(each.stage.value, name)
    return found


def schema_of(made: Translation) -> type[Hyperparameters]:
    """Of the method's hyperparameters. The stage is one that jobs have."""
    assert made.method is not None
    return HYPERPARAMETERS[made.method]


def _judge(
    made: Translation,
    declarations: Mapping[str, Parameter],
    key: str,
    value: Any,
    config: Mapping[str, Any],
) -> None:
    declared, treatment = declarations.get(key), TABLE.get(key)
    if declared is None and treatment is None:
        _refuse(made, key, _unknown(made, key, declarations))
    elif value is None:
        _drop(made, key, _NULL)
    elif (read_in := READ_IN.get(key)) and not {made.stage, made.finetuning_type} & read_in:
        _drop(made, key, f"LLaMA-Factory reads it with {' or '.join(sorted(read_in))} alone")
    elif key in _OF_ADAPTER and config.get("adapter_name_or_path"):
        _drop(made, key, "the adapter that training goes on from keeps its own")
    elif declared is not None:
        _take_parameter(made, declared, value, config)
    elif treatment is not None:
        _treat(made, key, value, treatment)


def _treat(
    made: Translation,
    key: str,
    value: Any,
    treatment: Becomes | Renamed | OfEntry | Dropped | Refused,
) -> None:
    match treatment:
        case Becomes(place):
            _take_field(made, key, value, place)
        case Renamed(name):
            _rename(made, key, value, name)
        case OfEntry():
            made.of_entry[key] = value
            _honour(made, key, f"the {key} of the model's entry, which must be the same")
        case Dropped(why):
            _drop(made, key, why)
        case Refused(advice):
            if treatment.is_plain(value):
                _drop(made, key, _PLAIN)
            else:
                _refuse(made, key, unsupported_parameter(f"{WHERE}.{key}", advice))


def _take_field(made: Translation, key: str, value: Any, place: Field) -> None:
    told = place.value
    match place:
        case Field.SEED:
            made.seed = as_declared(int, value)
        case Field.METHOD:
            if made.method is None:
                _refuse(made, key, _no_stage(made.stage))
                return
            told = f"method.type {made.method}"
        case _:
            names = names_in(value)
            if not names:
                expected = "a name, or several separated by commas"
                _refuse(made, key, invalid_value(f"{WHERE}.{key}", f"Expected {expected}."))
                return
            _take_names(made, key, names, place)
    _honour(made, key, told)


def _take_names(made: Translation, key: str, names: tuple[str, ...], place: Field) -> None:
    if place is Field.TRAINING_FILE:
        made.datasets = names
    elif place is Field.VALIDATION_FILE:
        made.eval_datasets = names
    elif key == "adapter_name_or_path":
        made.adapter = ",".join(names)
    else:
        made.model = ",".join(names)


def _rename(made: Translation, key: str, value: Any, name: str) -> None:
    given = as_declared(settable()[name].type, value)
    if given is False:
        _drop(made, key, _PLAIN)
    elif made.method is not None and name not in schema_of(made).model_fields:
        _refuse(made, key, unsupported_parameter(f"{WHERE}.{key}", f"It is not of {made.stage}."))
    else:
        made.hyperparameters[name] = given
        made.keys[name] = key
        _honour(made, key, name)


def _take_parameter(
    made: Translation, declared: Parameter, value: Any, config: Mapping[str, Any]
) -> None:
    key = declared.name
    given = as_declared(declared.type, value)
    strategy = config.get(_STRATEGIES.get(key, ""))
    other = _INSTEAD.get(key, "")
    in_place = as_declared(declared.type, config.get(other))
    if strategy in ("no", "epoch"):
        _drop(made, key, f"{_STRATEGIES[key]} is '{strategy}'")
    elif key == "eval_steps" and strategy is None:
        _drop(made, key, "LLaMA-Factory reads it with eval_strategy alone")
    elif key == "max_steps" and isinstance(given, int) and given <= 0:
        _drop(made, key, _NO_LIMIT)
    elif not declared.is_of(stage=_stage(made), kind=_kind(made)):
        if given == declared.default:
            _drop(made, key, _PLAIN)
        else:
            told = f"It belongs to {declared.home}."
            _refuse(made, key, unsupported_parameter(f"{WHERE}.{key}", told))
    elif (loss := LOSS_OF.get(key)) and (config.get("pref_loss") or _PREF_LOSS) != loss:
        if key in _IGNORED or given == declared.default:
            _drop(made, key, f"LLaMA-Factory reads it with pref_loss {loss} alone")
        else:
            told = f"It belongs to pref_loss '{loss}'."
            _refuse(made, key, unsupported_parameter(f"{WHERE}.{key}", told))
    elif in_place not in (None, False, given):
        _drop(made, key, f"'{other}' stands in its place")
    else:
        made.hyperparameters[key] = given
        _honour(made, key, key)


def _validate(made: Translation) -> None:
    """Wrong values, and parameters that exclude each other."""
    if made.method is None:
        return
    try:
        wanted = schema_of(made).model_validate(made.hyperparameters)
    except ValidationError as error:
        by_name: dict[str, list[ErrorDetails]] = {}
        for each in error.errors(include_url=False):
            by_name.setdefault(str(each["loc"][0]), []).append(each)
        for name, same in by_name.items():
            key = made.keys.get(name, name)
            located = [{**each, "loc": (WHERE, key, *each["loc"][1:])} for each in same]
            refusal = api_error(located, {WHERE: {key: made.hyperparameters[name]}})
            assert isinstance(refusal, InvalidRequest)
            _refuse(made, key, refusal)
        return
    found = find_conflict(lambda name: getattr(wanted, name, None))
    if found is not None:
        key = made.keys.get(found.name, found.name)
        _refuse(made, key, unsupported_value(f"{WHERE}.{key}", found.reason))


def _stage(made: Translation) -> Stage | None:
    return None if made.method is None else Stage(made.stage)


def _kind(made: Translation) -> FinetuningType | None:
    kinds = {kind.value: kind for kind in FinetuningType}
    return kinds.get(made.finetuning_type)


def _no_stage(stage: str) -> InvalidRequest:
    there = ", ".join(stages())
    return unsupported_value(
        f"{WHERE}.stage", f"Jobs have no stage '{stage[:_MAX_KEY_CHARS]}', only {there}."
    )


def _unknown(made: Translation, key: str, declarations: Mapping[str, Parameter]) -> InvalidRequest:
    key = key[:_MAX_KEY_CHARS]
    near: list[str] = []
    made.num_unknown += 1
    if made.num_unknown <= _MAX_COMPARED:
        near = difflib.get_close_matches(key, [*declarations, *TABLE], 1)
    meant = f" Did you mean '{near[0]}'?" if near else ""
    return InvalidRequest(
        f"Unknown parameter: '{WHERE}.{key}'.{meant}",
        param=f"{WHERE}.{key}",
        code="unknown_parameter",
    )


def _honour(made: Translation, key: str, told: str) -> None:
    made.verdicts[key] = Verdict(key, State.HONOURED, told)


def _drop(made: Translation, key: str, why: str) -> None:
    made.verdicts[key] = Verdict(key, State.DROPPED, why)


def _refuse(made: Translation, key: str, error: InvalidRequest) -> None:
    made.verdicts[key] = Verdict(key, State.REFUSED, error.message, error)
