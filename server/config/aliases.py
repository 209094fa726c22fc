"""A model entry under LLaMA-Factory's names becomes one under ours.

A name given for an engine that does not honour it, or beside the name it stands for, is an error.
"""

from __future__ import annotations

import json
from typing import Any

from server.config.factory_names import (
    ENGINES,
    NAMES,
    TOKEN_HUBS,
    Field,
    Merged,
    Only,
    Own,
    Refused,
)

_ENGINES = {"huggingface": "hf"}


def plain_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError."""
    plain = {name: value for name, value in entry.items() if name not in NAMES}
    engine = _engine(entry)
    if engine not in ENGINES:
        return plain | {"engine": engine}  # refused by the entry itself
    settings = dict(plain.get("settings") or {})
    for name in NAMES:
        if name in entry and entry[name] is not None:
            _place(name, entry[name], engine, plain, settings)
    for name, hub in TOKEN_HUBS.items():
        if entry.get(name) is not None and plain.setdefault("hub", hub) != hub:
            raise ValueError(f"{name} is for hub {hub}, not {plain['hub']}")
    return plain | {"settings": settings} if settings else plain


def _engine(entry: dict[str, Any]) -> str:
    if "infer_backend" in entry:
        return _ENGINES.get(str(entry["infer_backend"]), str(entry["infer_backend"]))
    return str(entry.get("engine") or "hf")


def _place(
    name: str, value: Any, engine: str, plain: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Raises ValueError."""
    treatment = NAMES[name][engine]
    match treatment:
        case Refused(why):
            raise ValueError(f"{name} is not a setting of engine {engine}: {why}")
        case Only(values, why):
            if value not in values:
                raise ValueError(f"{name}: {value!r} is not possible with engine {engine}: {why}")
        case Field(target):
            _add(plain, target, engine if target == "engine" else value, name, target)
        case Merged():
            for own, given in _read_object(name, value).items():
                _add(settings, own, given, name, f"settings.{own}")
        case Own(target, choices, values):
            if choices is not None and not isinstance(value, dict) and value not in choices:
                known = ", ".join(str(choice) for choice in choices)
                raise ValueError(f"{name} must be one of {known} with engine {engine}")
            given = value if values is None else values[value]
            if given is not None:
                _add(settings, target, given, name, f"settings.{target}")


def _add(place: dict[str, Any], name: str, value: Any, alias: str, shown: str) -> None:
    if name in place:
        raise ValueError(f"{alias} and {shown} are the same setting")
    place[name] = value


def _read_object(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} must hold settings by name")
    return value
