"""Fields of a training file's row: what is wrong with one is said in OpenAI's words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, cast

from templates.example_lines import likely_encoding

MAX_DEPTH = 64
"""Objects and arrays within each other: what renders a row walks it recursively."""

JsonObject = dict[str, Any]
_T = TypeVar("_T")
_V = TypeVar("_V")


class ExampleError(Exception):
    """What is wrong with a row, without its line number."""


@dataclass(slots=True)
class RowNotes:
    """What was done to a row that its author should know of."""

    ignored_columns: list[str] = field(default_factory=list[str])
    unwrapped_arguments: bool = False
    """Arguments of a call were JSON text within JSON text."""


def parse_json(text: str | bytes) -> object:
    """Raises ExampleError, which says why in the middle of a sentence."""
    try:
        value: object = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ExampleError(_not_utf8(text)) from error
    except json.JSONDecodeError as error:
        raise ExampleError(f"invalid json: {error}") from error
    except RecursionError as error:
        raise ExampleError(_TOO_DEEP) from error
    except ValueError as error:
        # The one other thing that Python's reader refuses: see `sys.set_int_max_str_digits`.
        raise ExampleError("invalid json: an integer has too many digits") from error
    if _may_be_deep(text) and _depth(value) > MAX_DEPTH:
        raise ExampleError(_TOO_DEEP)
    return value


_TOO_DEEP = f"invalid json: nested too deeply (more than {MAX_DEPTH} levels)"


def _not_utf8(text: str | bytes) -> str:
    encoding = likely_encoding(text) if isinstance(text, bytes) else None
    return "bytes that are not valid UTF-8" + (f" (this looks like {encoding})" if encoding else "")


def _refuse_constant(name: str) -> NoReturn:
    raise ExampleError(f"invalid json: {name} is not a JSON value")


def _may_be_deep(text: str | bytes) -> bool:
    """Few brackets cannot nest deeply, which spares most rows the walk."""
    if isinstance(text, bytes):
        return text.count(b"{") + text.count(b"[") > MAX_DEPTH
    return text.count("{") + text.count("[") > MAX_DEPTH


def _depth(value: object) -> int:
    """Walked level by level."""
    depth = 0
    level = [value]
    while True:
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.append(item)
            elif isinstance(item, list):
                inner.append(cast(list[object], item))
        if not inner:
            return depth
        depth += 1
        level = []
        for item in inner:
            level += cast(JsonObject, item).values() if isinstance(item, dict) else cast(Any, item)


def read_at(place: str, read: Callable[[_V], _T], value: _V) -> _T:
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


def is_encodable(value: object) -> bool:
    """Whether no text in a JSON value, keys included, holds half a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def only_fields(values: JsonObject, known: frozenset[str], prefix: str) -> None:
    """A field that would be ignored is refused, unless it says nothing."""
    for key in unknown_fields(values, known):
        raise ExampleError(f"has an unknown field '{prefix}{shown_name(key)}'")


def unknown_fields(values: JsonObject, known: frozenset[str]) -> list[str]:
    """Those that say something."""
    return [key for key, value in values.items() if key not in known and value not in _NOTHING]


_NOTHING: tuple[object, ...] = (None, [], {})


def shown_name(key: str) -> str:
    """A field's name where it is one: anything else may be the text of a row."""
    return key if key.isidentifier() and len(key) <= 64 else "(unnamed)"
