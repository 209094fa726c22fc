"""From pydantic's errors to OpenAI's: one error, its code, and a `param` path such as
`messages[0].content[1].text`.

The path is found by walking the body along the error's location, which also has the names that
pydantic gives to members of a union. Those are left out: they do not exist in the body or, where
one is spelled like a field beside it, the rest of the location is not found behind that field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError

from server.broken_rules import EXPECTED, ErrorDetails, refuse_value
from server.errors import ApiError, InvalidRequest

ModelT = TypeVar("ModelT", bound=BaseModel)
_NOT_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using "
    "your HTTP library correctly. The API expects a JSON payload, but what was sent was not valid "
    "JSON.)"
)


def validate_body(model: type[ModelT], body: bytes) -> ModelT:
    """The body as `model`. Raises InvalidRequest."""
    if b"NaN" in body or b"Infinity" in body:
        _refuse_what_json_lacks(body)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise translate(error.errors(include_url=False), _loads(body)) from None


def _refuse_what_json_lacks(body: bytes) -> None:
    """Pydantic reads numbers that are none as JavaScript spells them."""
    try:
        pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError:
        raise InvalidRequest(_NOT_JSON) from None


def _loads(body: bytes) -> Any:
    """As pydantic has read it."""
    try:
        return pydantic_core.from_json(body)
    except ValueError:
        return None


def translate(errors: Sequence[ErrorDetails], body: Any) -> ApiError:
    """The API error for the most telling of `errors`."""
    kinds = {error["type"] for error in errors}
    if "json_invalid" in kinds:
        return InvalidRequest(_NOT_JSON)
    located = [(_path(error, body), error) for error in errors]
    located = [pair for pair in located if _same_place(pair[0], located[0][0])]
    deepest = max(len(path) for path, _ in located)
    chosen = [(path, error) for path, error in located if len(path) == deepest]
    # A value of the right type that breaks a limit says more than the types it is not.
    limits = [pair for pair in chosen if pair[1]["type"] not in EXPECTED]
    limits.sort(key=lambda pair: pair[1]["type"] == "literal_error")
    path, first = (limits or chosen)[0]
    same = [error for other, error in chosen if other == path]
    return refuse_value(_render(path), first, same)


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
