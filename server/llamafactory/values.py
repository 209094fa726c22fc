"""Values as LLaMA-Factory reads them: YAML takes `1e-5` for text, and lists may be one text."""

from __future__ import annotations

from types import NoneType
from typing import Any, cast, get_args

import msgspec


def as_declared(annotation: Any, value: Any) -> Any:
    """The value in the type that is declared, where it is one; else as it was."""
    kinds = _plain_types(annotation)
    if isinstance(value, list) and str in kinds and all(isinstance(v, str) for v in value):
        return ",".join(value)
    if isinstance(value, str) and str not in kinds:
        return _read(value.strip(), kinds)
    if isinstance(value, float) and float not in kinds and int in kinds and value.is_integer():
        return int(value)
    return value


def names_in(value: Any) -> tuple[str, ...]:
    """Of a list, or a text with commas; none where there is something else."""
    parts: list[Any] = value.split(",") if isinstance(value, str) else value
    if not isinstance(value, str | list) or not all(isinstance(part, str) for part in parts):
        return ()
    return tuple(name for part in cast(list[str], parts) if (name := part.strip()))


def _read(text: str, kinds: set[Any]) -> Any:
    words = {"true": True, "false": False}
    if bool in kinds and text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def _plain_types(annotation: Any) -> set[Any]:
    """Without limits and null; the choices of a Literal are texts."""
    if isinstance(annotation, str):
        return {str}
    if isinstance(annotation, msgspec.Meta):
        return set()
    members = get_args(annotation)
    if not members:
        return set() if annotation is NoneType else {annotation}
    return {kind for member in members for kind in _plain_types(member)}
