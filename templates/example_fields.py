"""Fields of a training file's row: what is wrong with one is said in OpenAI's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

JsonObject = dict[str, Any]
_T = TypeVar("_T")


class ExampleError(Exception):
    """What is wrong with a row, without its line number."""


def read_at(place: str, read: Callable[[object], _T], value: object) -> _T:
    """Reads `value`; an error gets its place in front."""
    try:
        return read(value)
    except ExampleError as error:
        raise ExampleError(f"{place} {error}") from error


def object_of(value: object, what: str) -> JsonObject:
    if not isinstance(value, dict):
        raise ExampleError(f"{what} must be an object")
    return cast(JsonObject, value)


def text_of(values: JsonObject, key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise ExampleError(f"'{key}' must be a string")
    check_encodable(value, key)
    return value


def optional_text(values: JsonObject, key: str) -> str | None:
    return None if values.get(key) is None else text_of(values, key)


def check_encodable(value: str, key: str) -> None:
    """JSON can escape half a surrogate pair, which no tokenizer takes."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ExampleError(f"'{key}' holds an unpaired surrogate") from error


def only_fields(values: JsonObject, known: frozenset[str], prefix: str) -> None:
    """A field that would be ignored is refused, unless it says nothing."""
    for key, value in values.items():
        if key not in known and value not in (None, [], {}):
            name = key if key.isidentifier() and len(key) <= 64 else "(unnamed)"
            raise ExampleError(f"has an unknown field '{prefix}{name}'")
