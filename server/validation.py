"""From pydantic's errors to OpenAI's: one error, its code, and a `param` path such as
`messages[0].content[1].text`.

The path is found by walking the body along the error's location: parts of the location that do not
exist in the body are the names pydantic gives to members of a union, and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from server.errors import ApiError, InvalidRequest, unknown_parameter

ModelT = TypeVar("ModelT", bound=BaseModel)
ErrorDetails = Mapping[str, Any]

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "int_parsing_size": "a 64-bit integer",
    "float_type": "a decimal",
    "float_parsing": "a decimal",
    "finite_number": "a finite number",
    "bool_type": "a boolean",
    "bool_parsing": "a boolean",
    "list_type": "an array",
    "tuple_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dataclass_type": "an object",
}
_NOT_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using "
    "your HTTP library correctly. The API expects a JSON payload, but what was sent was not valid "
    "JSON.)"
)


def validate_body(model: type[ModelT], body: bytes) -> ModelT:
    """The body as `model`. Raises InvalidRequest."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise translate(error.errors(include_url=False), _loads(body)) from None


def _loads(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
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
    limits = [pair for pair in chosen if pair[1]["type"] not in _EXPECTED]
    path, first = (limits or chosen)[0]
    same = [error for other, error in chosen if other == path]
    return _translate_one(_render(path), first, same)


def _same_place(path: tuple[str | int, ...], first: tuple[str | int, ...]) -> bool:
    """In the same field (and item) of the body as the first error."""
    return all(a == b for a, b in zip(path[:2], first[:2], strict=False))


def _path(error: ErrorDetails, body: Any) -> tuple[str | int, ...]:
    path: list[str | int] = []
    value = body
    location = tuple(error["loc"])
    for place, part in enumerate(location):
        if _holds(value, part):
            path.append(part)
            value = value[part]
        elif place == len(location) - 1 and error["type"] == "missing":
            path.append(part)
    return tuple(path)


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


def _translate_one(
    param: str | None, error: ErrorDetails, same: Sequence[ErrorDetails]
) -> ApiError:
    kind: str = error["type"]
    context: Mapping[str, Any] = error.get("ctx", {})
    named = f" '{param}'" if param else ""
    if kind == "missing":
        return InvalidRequest(
            f"Missing required parameter:{named}.", param=param, code="missing_required_parameter"
        )
    if kind == "extra_forbidden":
        return unknown_parameter(param or "")
    if kind in _EXPECTED:
        return _wrong_type(param, named, error, same)
    if kind in _LIMITS:
        return _LIMITS[kind](param, named, error, context)
    if kind in ("union_tag_not_found",):
        tag = str(context.get("discriminator", "type")).strip("'")
        where = f"{param}.{tag}" if param else tag
        return InvalidRequest(
            f"Missing required parameter: '{where}'.",
            param=where,
            code="missing_required_parameter",
        )
    if kind == "union_tag_invalid":
        tag = str(context.get("discriminator", "type")).strip("'")
        where = f"{param}.{tag}" if param else tag
        return InvalidRequest(
            f"Invalid value: '{context.get('tag')}'. "
            f"Supported values are: {context.get('expected_tags')}.",
            param=where,
            code="invalid_value",
        )
    if kind in ("literal_error", "enum"):
        return InvalidRequest(
            f"Invalid value:{_quoted(error.get('input'))}. "
            f"Supported values are: {context.get('expected')}.",
            param=param,
            code="invalid_value",
        )
    code = kind if kind in _OWN_CODES else "invalid_value"
    return InvalidRequest(f"Invalid{named}: {error['msg']}", param=param, code=code)


_OWN_CODES = frozenset({"invalid_function_parameters", "invalid_json_schema", "unsupported_value"})
"""Codes that validators of ours raise as a `PydanticCustomError`."""


def _quoted(value: Any) -> str:
    return f" '{value}'" if isinstance(value, str) else f" {json_name(value)}"


def _wrong_type(
    param: str | None, named: str, error: ErrorDetails, same: Sequence[ErrorDetails]
) -> ApiError:
    expected = list(dict.fromkeys(_EXPECTED[e["type"]] for e in same if e["type"] in _EXPECTED))
    wanted = expected[0] if len(expected) == 1 else f"one of {' or '.join(expected)}"
    where = f" for{named}" if named else ""
    return InvalidRequest(
        f"Invalid type{where}: expected {wanted}, but got {json_name(error.get('input'))} instead.",
        param=param,
        code="invalid_type",
    )


def json_name(value: Any) -> str:
    """The JSON kind of a value, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a decimal"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list | tuple):
        return "an array"
    return "an object"


def _number(kind: str, sign: str, word: str) -> Any:
    def build(
        param: str | None, named: str, error: ErrorDetails, context: Mapping[str, Any]
    ) -> ApiError:
        bound = next(iter(context.values()))
        noun = "integer" if isinstance(bound, int) and isinstance(error["input"], int | str) else ""
        noun = noun or "decimal"
        edge = "maximum" if word == "above" else "minimum"
        return InvalidRequest(
            f"Invalid{named}: {noun} {word} {edge} value. "
            f"Expected a value {sign} {bound:g}, but got {error['input']} instead.",
            param=param,
            code=f"{noun}_{word}_{'max' if word == 'above' else 'min'}_value",
        )

    return build


def _too_long(
    param: str | None, named: str, error: ErrorDetails, context: Mapping[str, Any]
) -> ApiError:
    return InvalidRequest(
        f"Invalid{named}: array too long. Expected an array with maximum length "
        f"{context['max_length']}, but got an array with length {len(error['input'])} instead.",
        param=param,
        code="array_above_max_length",
    )


def _too_short(
    param: str | None, named: str, error: ErrorDetails, context: Mapping[str, Any]
) -> ApiError:
    return InvalidRequest(
        f"Invalid{named}: empty array. Expected an array with minimum length "
        f"{context['min_length']}, but got an empty array instead.",
        param=param,
        code="empty_array",
    )


def _string_too_long(
    param: str | None, named: str, error: ErrorDetails, context: Mapping[str, Any]
) -> ApiError:
    return InvalidRequest(
        f"Invalid{named}: string too long. Expected a string with maximum length "
        f"{context['max_length']}, but got a string with length {len(error['input'])} instead.",
        param=param,
        code="string_above_max_length",
    )


def _string_too_short(
    param: str | None, named: str, error: ErrorDetails, context: Mapping[str, Any]
) -> ApiError:
    return InvalidRequest(
        f"Invalid{named}: empty string. Expected a string with minimum length "
        f"{context['min_length']}, but got an empty string instead.",
        param=param,
        code="empty_string",
    )


def _pattern(
    param: str | None, named: str, error: ErrorDetails, context: Mapping[str, Any]
) -> ApiError:
    return InvalidRequest(
        f"Invalid{named}: string does not match pattern. "
        f"Expected a string that matches the pattern '{context['pattern']}'.",
        param=param,
        code="invalid_value",
    )


_LIMITS: dict[str, Any] = {
    "less_than_equal": _number("less_than_equal", "<=", "above"),
    "less_than": _number("less_than", "<", "above"),
    "greater_than_equal": _number("greater_than_equal", ">=", "below"),
    "greater_than": _number("greater_than", ">", "below"),
    "too_long": _too_long,
    "too_short": _too_short,
    "string_too_long": _string_too_long,
    "string_too_short": _string_too_short,
    "string_pattern_mismatch": _pattern,
}
