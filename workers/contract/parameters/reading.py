"""Declarations read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

import msgspec

from workers.contract.parameters.data import DataArguments
from workers.contract.parameters.declaration import Arguments, FinetuningType, Place, Stage
from workers.contract.parameters.finetuning import FinetuningArguments
from workers.contract.parameters.model import ModelArguments
from workers.contract.parameters.ppo import PPOArguments
from workers.contract.parameters.training import TrainingArguments

GROUPS: tuple[type[Arguments], ...] = (
    ModelArguments,
    DataArguments,
    FinetuningArguments,
    TrainingArguments,
    PPOArguments,
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A declaration, read back."""

    name: str
    group: type[Arguments]
    type: Any
    """As annotated, limits included."""
    default: Any
    meta: msgspec.Meta

    @property
    def doc(self) -> str:
        return self.meta.description or ""

    @property
    def place(self) -> Place:
        assert self.meta.extra is not None, "param and own set it"
        return self.meta.extra["place"]

    def is_of(self, *, stage: Stage | None = None, kind: FinetuningType | None = None) -> bool:
        """Whether it has a meaning there."""
        stages, types = self.place.stages, self.place.types
        return (not stages or stage is None or stage in stages) and (
            not types or kind is None or kind in types
        )

    @property
    def unset(self) -> Any:
        """What a job has that does not set it: None where another one stands in."""
        return None if self.place.instead_of else self.default

    @property
    def home(self) -> str:
        """Where it belongs, in words."""
        stages, types = self.place.stages, self.place.types
        parts = [f"stage {' or '.join(stages)}"] if stages else []
        parts += [f"finetuning_type {' or '.join(types)}"] if types else []
        return " with ".join(parts) or "every run"


def parameters(groups: Sequence[type[Arguments]] = GROUPS) -> dict[str, Parameter]:
    """Those of `groups` by name, in the order of their declarations."""
    return {
        field.name: Parameter(field.name, group, field.type, field.default, _meta(field.type))
        for group in groups
        for field in msgspec.structs.fields(group)
    }


def settable(stage: Stage | None = None) -> dict[str, Parameter]:
    """Those that a job sets: of `stage`, or of any."""
    return {
        name: each
        for name, each in parameters().items()
        if each.place.is_settable and each.is_of(stage=stage)
    }


def _meta(annotation: Any) -> msgspec.Meta:
    """Of `Annotated[T, meta]` or `Annotated[T, meta] | None`."""
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[1]
    return next(_meta(part) for part in get_args(annotation) if get_origin(part) is Annotated)
