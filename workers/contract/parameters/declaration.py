"""How a parameter is declared, and where it has a meaning."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

MAX_COUNT = 2**31 - 1
"""More than any number of steps, tokens or examples can be."""


class Stage(StrEnum):
    PT = "pt"
    SFT = "sft"
    RM = "rm"
    DPO = "dpo"
    KTO = "kto"
    PPO = "ppo"


MEASURED = tuple(stage for stage in Stage if stage is not Stage.PPO)
"""Stages with a loss on rows that are not trained on."""


class FinetuningType(StrEnum):
    LORA = "lora"
    FREEZE = "freeze"
    OFT = "oft"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parameter has a meaning. Empty means everywhere."""

    stages: tuple[Stage, ...] = ()
    types: tuple[FinetuningType, ...] = ()
    is_settable: bool = True
    """Whether a job sets it; the others are the service's own."""
    instead_of: str | None = None
    """OpenAI's hyperparameter that it takes the place of. A job that does not set it has it from
    there, whatever its default."""


def param(
    doc: str,
    *,
    stages: tuple[Stage, ...] = (),
    types: tuple[FinetuningType, ...] = (),
    instead_of: str | None = None,
    **limits: Any,
) -> msgspec.Meta:
    """A parameter that a job sets. `limits` are those of `msgspec.Meta`: ge, gt, le, lt, pattern,
    min_length, max_length."""
    place = Place(stages, types, instead_of=instead_of)
    return msgspec.Meta(description=doc, extra={"place": place}, **limits)


def own(doc: str, *, stages: tuple[Stage, ...] = (), **limits: Any) -> msgspec.Meta:
    """A parameter that the service sets."""
    place = Place(stages, is_settable=False)
    return msgspec.Meta(description=doc, extra={"place": place}, **limits)


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group of parameters. One that is unknown does not decode."""
