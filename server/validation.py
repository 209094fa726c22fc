"""From pydantic's errors to OpenAI's: one error, its code, and a `param` path such as
`messages[0].content[1].text`.

The path is found by walking the body along the error's location, which also has the names that
pydantic gives to members of a union. Those are left out: they do not exist in the body or, where
one is spelled like a field beside it, the rest of the location is not found behind that field.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError

from server.body_size import LARGE_BODY_BYTES, check_size
from server.broken_rules import EXPECTED, ErrorDetails, refuse_json, refuse_value
from server.errors import ApiError
from server.wire import MAX_MEMBERS

ModelT = TypeVar("ModelT", bound=BaseModel)
_MAX_ERRORS = 1000
"""Beyond which they are not all looked at."""


async def read_body(model: type[ModelT], body: bytes) -> ModelT:
    """The body as `model`, also if it is large. Raises InvalidRequest."""
    if len(body) > LARGE_BODY_BYTES:
        await check_size(body)
    return validate_body(model, body)


def validate_body(model: type[ModelT], body: bytes) -> ModelT:
    """The body as `model`. Raises InvalidRequest."""
    if b"NaN" in body or b"Infinity" in body:
        _refuse_what_json_lacks(body)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error, model, body) from None


def _refuse_what_json_lacks(body: bytes) -> None:
    """Pydantic reads numbers that are none as JavaScript spells them."""
    try:
        pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise refuse_json(str(error)) from None


def _explain(error: ValidationError, model: type[BaseModel], body: bytes) -> ApiError:
    try:
        value = pydantic_core.from_json(body)
    except ValueError as broken:
        return refuse_json(str(broken))
    if error.error_count() > _MAX_ERRORS:
        try:
            model.model_validate_json(pydantic_core.to_json(_cut(value)))
        except ValidationError as shorter:
            error = shorter
    return translate(error.errors(include_url=False, include_input=False), value)


def _cut(value: Any) -> Any:
    """Objects with no more members than break any limit. Lists stop at their first error."""
    if isinstance(value, list):
        return [_cut(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _cut(value[name]) for name in islice(value, MAX_MEMBERS + 1)}


def translate(errors: Sequence[ErrorDetails], body: Any) -> ApiError:
    """The API error for the most telling of `errors`."""
    broken = next((error for error in errors if error["type"] == "json_invalid"), None)
    if broken is not None:
        return refuse_json(str(broken.get("ctx", {}).get("error", "")))
    located = [(_path(error, body), error) for error in errors]
    located = [pair for pair in located if _same_place(pair[0], located[0][0])]
    long = [pair for pair in located if pair[1]["type"] == "too_long"]
    located = long or located
    deepest = max(len(path) for path, _ in located)
    chosen = [(path, error) for path, error in located if len(path) == deepest]
    # A value of the right type that breaks a limit says more than the types it is not.
    limits = [pair for pair in chosen if pair[1]["type"] not in EXPECTED]
    limits.sort(key=lambda pair: pair[1]["type"] == "literal_error")
    path, first = (limits or chosen)[0]
    same = [error for other, error in chosen if other == path]
    if "input" not in first:
        first = {**first, "input": _at(path, body)}
    return refuse_value(_render(path), first, same)


def _at(path: tuple[str | int, ...], value: Any) -> Any:
    """What stands at `path` in `value`; None where nothing does."""
    for part in path:
        if not _holds(value, part):
            return None
        value = value[part]
    return value


def _same_place(path: tuple[str | int, ...], first: tuple[str | int, ...]) -> bool:
    """In the same field (and item) of the body as the first error."""
    return all(a == b for a, b in zip(path[:2], first[:2], strict=False))


def _path(error: ErrorDetails, body: Any) -> tuple[str | int, ...]:
    return _walk(body, tuple(error["loc"]), lacks_last=error["type"] == "missing")[0]


def _walk(
    value: Any, location: tuple[str | int, ...], *, lacks_last: bool
) -> tuple[tuple[str | int, ...], bool]:
    """The parts of `location` that lead through `value`, and whether its last is among them."""
    if not location:
        return (), True
    part, rest = location[0], location[1:]
    if not _holds(value, part):
        if lacks_last and not rest:
            return (part,), True
        path, is_whole = _walk(value, rest, lacks_last=lacks_last)
        return path, is_whole and bool(rest)
    inner, is_whole = _walk(value[part], rest, lacks_last=lacks_last)
    if is_whole or not rest:
        return (part, *inner), is_whole
    beside, is_whole = _walk(value, rest, lacks_last=lacks_last)
    return (beside, True) if is_whole else ((part, *inner), False)


def _holds(value: Any, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _render(path: tuple[str | int, ...]) -> str | None:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text or None
