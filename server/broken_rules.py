"""What a caller is told of a value that breaks a rule: OpenAI's codes and forms of message, for
each kind of pydantic's errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server.errors import ApiError, InvalidRequest, array_too_long, unknown_parameter

ErrorDetails = Mapping[str, Any]

EXPECTED = {
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
"""Pydantic's errors of type, by what it wanted."""


_NOT_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using "
    "your HTTP library correctly. The API expects a JSON payload, but what was sent was not valid "
    "JSON.)"
)
_BEYOND_JSON = {
    "recursion limit exceeded": "it is nested more than 200 levels deep",
    "number out of range": "a number has more than 4,300 digits",
    "unexpected end of hex escape": "a string holds half of a surrogate pair",
    "lone leading surrogate": "a string holds half of a surrogate pair",
}
"""What JSON allows and we do not, by how the parser puts it."""
MAX_SHOWN_CHARS = 100
"""Of a caller's own value in a message."""


def why_not_json(reason: str) -> str | None:
    """What is beyond our JSON, where that is why the parser gives `reason`."""
    for begin, meaning in _BEYOND_JSON.items():
        if reason.startswith(begin):
            _, at, place = reason.partition(" at line ")
            return f"{meaning},{at}{place}" if at else meaning
    return None


def refuse_json(reason: str) -> InvalidRequest:
    """The refusal of a body for which the parser gives `reason`."""
    meaning = why_not_json(reason)
    if meaning is None:
        return InvalidRequest(_NOT_JSON)
    return InvalidRequest(
        f"The JSON body of your request cannot be taken: {meaning}.", code="invalid_json"
    )


def refuse_value(param: str | None, error: ErrorDetails, same: Sequence[ErrorDetails]) -> ApiError:
    """The refusal of the value at `param`; `same` are all errors there."""
    kind: str = error["type"]
    context: Mapping[str, Any] = error.get("ctx", {})
    named = f" '{param}'" if param else ""
    if kind == "missing":
        return _missing(param, named)
    if kind == "extra_forbidden":
        return unknown_parameter(param or "")
    if kind in EXPECTED:
        return _wrong_type(param, named, error, same)
    if kind in _LIMITS:
        return _LIMITS[kind](param, named, error, context)
    if kind == "union_tag_not_found":
        _, where = _tag_place(param, context)
        return _missing(where, f" '{where}'")
    if kind == "union_tag_invalid":
        return _wrong_tag(param, error, context)
    if kind in ("literal_error", "enum"):
        return _none_of(param, named, error, same)
    code = kind if kind in _OWN_CODES else "invalid_value"
    return InvalidRequest(f"Invalid{named}: {error['msg']}", param=param, code=code)


_OWN_CODES = frozenset({"invalid_function_parameters", "invalid_json_schema", "unsupported_value"})
"""Codes that validators of ours raise as a `PydanticCustomError`."""


def _missing(param: str | None, named: str) -> ApiError:
    return InvalidRequest(
        f"Missing required parameter:{named}.", param=param, code="missing_required_parameter"
    )


def _tag_place(param: str | None, context: Mapping[str, Any]) -> tuple[str, str]:
    """The field that tells the kinds of object at `param` apart, and where it is."""
    tag = str(context.get("discriminator", "type")).strip("'")
    return tag, f"{param}.{tag}" if param else tag


def _wanted_types(same: Sequence[ErrorDetails]) -> list[str]:
    return list(dict.fromkeys(EXPECTED[e["type"]] for e in same if e["type"] in EXPECTED))


def _quoted(value: Any) -> str:
    return f" '{_shown(value)}'" if isinstance(value, str) else f" {json_name(value)}"


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def _wrong_tag(param: str | None, error: ErrorDetails, context: Mapping[str, Any]) -> ApiError:
    tag, where = _tag_place(param, context)
    given = error.get("input")
    value = given.get(tag) if isinstance(given, dict) else context.get("tag")
    return InvalidRequest(
        f"Invalid value:{_quoted(value)}. Supported values are: {context.get('expected_tags')}.",
        param=where,
        code="invalid_value",
    )


def _none_of(
    param: str | None, named: str, error: ErrorDetails, same: Sequence[ErrorDetails]
) -> ApiError:
    """A value that is not among the named ones, beside which there may be other types."""
    types = _wanted_types(same)
    expected = " or ".join([str(error.get("ctx", {}).get("expected")), *types])
    given = error.get("input")
    if types and not isinstance(given, str):
        return InvalidRequest(
            f"Invalid type for{named}: expected {expected}, but got {json_name(given)} instead.",
            param=param,
            code="invalid_type",
        )
    return InvalidRequest(
        f"Invalid value:{_quoted(given)}. Supported values are: {expected}.",
        param=param,
        code="invalid_value",
    )


def _wrong_type(
    param: str | None, named: str, error: ErrorDetails, same: Sequence[ErrorDetails]
) -> ApiError:
    expected = _wanted_types(same)
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


def _number(sign: str, word: str) -> Any:
    def build(
        param: str | None, named: str, error: ErrorDetails, context: Mapping[str, Any]
    ) -> ApiError:
        bound = next(iter(context.values()))
        noun = "integer" if isinstance(bound, int) and isinstance(error["input"], int | str) else ""
        noun = noun or "decimal"
        edge = "maximum" if word == "above" else "minimum"
        return InvalidRequest(
            f"Invalid{named}: {noun} {word} {edge} value. "
            f"Expected a value {sign} {_plain(bound)}, but got {_shown(error['input'])} instead.",
            param=param,
            code=f"{noun}_{word}_{'max' if word == 'above' else 'min'}_value",
        )

    return build


def _plain(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def _too_long(
    param: str | None, named: str, error: ErrorDetails, context: Mapping[str, Any]
) -> ApiError:
    limit, length = context["max_length"], len(error["input"])
    if not isinstance(error["input"], Mapping):
        return array_too_long(param, limit, length)
    return InvalidRequest(
        f"Invalid{named}: too many properties. Expected an object with at most {limit}, "
        f"but got one with {length} instead.",
        param=param,
        code="object_above_max_properties",
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
    "less_than_equal": _number("<=", "above"),
    "less_than": _number("<", "above"),
    "greater_than_equal": _number(">=", "below"),
    "greater_than": _number(">", "below"),
    "too_long": _too_long,
    "too_short": _too_short,
    "string_too_long": _string_too_long,
    "string_too_short": _string_too_short,
    "string_pattern_mismatch": _pattern,
}
