"""From the declared parameters to a request's schema: the bridge between msgspec and pydantic.

Limits become those of pydantic, so a wrong value is refused with the codes of any other field.
Numbers and booleans are taken literally.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Annotated, Any, get_args, get_origin

import msgspec
from pydantic import Field

from workers.contract.parameters import Parameter

_LIMITS = ("ge", "gt", "le", "lt", "pattern", "min_length", "max_length")


def wire_fields(declared: Mapping[str, Parameter]) -> dict[str, Any]:
    """Fields for `pydantic.create_model`, by name."""
    return {name: (_wire_type(each), each.unset) for name, each in declared.items()}


def _wire_type(declared: Parameter) -> Any:
    kind = _translated(declared.type)
    return kind | None if declared.place.instead_of else kind


def _translated(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        kind, meta = get_args(annotation)
        return Annotated[kind, _field(kind, meta)]
    members = get_args(annotation)
    return reduce(operator.or_, map(_translated, members)) if members else annotation


def _field(kind: Any, meta: msgspec.Meta) -> Any:
    limits = {name: getattr(meta, name) for name in _LIMITS if getattr(meta, name) is not None}
    if kind in (int, float, bool):
        limits["strict"] = True
    if kind is float:
        limits["allow_inf_nan"] = False
    return Field(description=meta.description, **limits)
