"""How large a grammar may be that a request brings: refused before an engine sees it.

For schemas the numbers are OpenAI's, but for the depth, which is counted in lists and objects of
the schema's text: an object within an object takes two. What is within them may still take too long
to compile, which the engine finds out (`workers.engine.grammar_checks`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from server.errors import InvalidRequest, array_too_long, invalid_value
from workers.contract.parts import Grammar, GrammarKind

MAX_PROPERTIES = 5000
MAX_DEPTH = 64
MAX_ENUM_VALUES = 1000
MAX_NAMED_CHARACTERS = 120_000
"""Of all names, enum and const values of a schema together."""
MAX_SOURCE_CHARACTERS = 1_000_000
"""Of a whole schema."""
MAX_CHOICES = 5000
MAX_CHOICE_CHARACTERS = 120_000
MAX_REGEX_CHARACTERS = 10_000
MAX_EBNF_CHARACTERS = 120_000

_NAMING = ("properties", "patternProperties", "$defs", "definitions")


def oversize(schema: Any) -> str | None:
    """The limit that the schema is over. Takes no more stack for a deep one."""
    num_properties = num_values = num_characters = 0
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for part in level:
            if isinstance(part, Mapping):
                for name in _NAMING:
                    if isinstance(named := part.get(name), Mapping):
                        num_properties += len(named) if "roperties" in name else 0
                        num_characters += sum(map(len, named))
                if isinstance(values := part.get("enum"), list):
                    num_values += len(values)
                    num_characters += sum(len(v) for v in values if isinstance(v, str))
                if isinstance(constant := part.get("const"), str):
                    num_characters += len(constant)
                inner += part.values()
            elif isinstance(part, list):
                inner += part
        if num_properties > MAX_PROPERTIES:
            return f"it has more than {MAX_PROPERTIES} properties."
        if num_values > MAX_ENUM_VALUES:
            return f"it has more than {MAX_ENUM_VALUES} enum values."
        if num_characters > MAX_NAMED_CHARACTERS:
            return (
                f"its names, enum and const values have more than {MAX_NAMED_CHARACTERS} "
                "characters together."
            )
        level = inner
        if not level:
            return None
    return f"it is nested more than {MAX_DEPTH} levels deep."


def too_deep(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid schema for '{param}': it is nested more than {MAX_DEPTH} levels deep.",
        param=param,
        code="invalid_json_schema",
    )


def check_size(grammar: Grammar, param: str) -> None:
    """Of what a caller wrote. Raises InvalidRequest."""
    source = grammar.source
    match grammar.kind:
        case GrammarKind.JSON_OBJECT:
            return
        case GrammarKind.JSON_SCHEMA:
            schema = _read(source, param)
            problem = oversize(schema)
            if problem is not None:
                raise InvalidRequest(
                    f"Invalid schema for '{param}': {problem}",
                    param=param,
                    code="invalid_json_schema",
                )
        case GrammarKind.STRUCTURAL_TAG:
            problem = oversize(_read(source, param))
            if problem is not None:
                raise invalid_value(param, problem[0].upper() + problem[1:])
        case GrammarKind.CHOICE:
            _check_choices(json.loads(source), param)
        case GrammarKind.REGEX:
            _check_length(source, MAX_REGEX_CHARACTERS, param)
        case GrammarKind.EBNF:
            _check_length(source, MAX_EBNF_CHARACTERS, param)


def _read(source: str, param: str) -> Any:
    _check_length(source, MAX_SOURCE_CHARACTERS, param)
    try:
        return json.loads(source)
    except ValueError as error:
        raise invalid_value(param, f"It is not JSON: {error}.") from error
    except RecursionError as error:
        raise too_deep(param) from error


def _check_choices(choices: list[str], param: str) -> None:
    if len(choices) > MAX_CHOICES:
        raise array_too_long(param, MAX_CHOICES, len(choices))
    if sum(map(len, choices)) > MAX_CHOICE_CHARACTERS:
        raise invalid_value(
            param, f"The choices have more than {MAX_CHOICE_CHARACTERS} characters together."
        )


def _check_length(text: str, limit: int, param: str) -> None:
    if len(text) > limit:
        raise InvalidRequest(
            f"Invalid '{param}': string too long. Expected a string with maximum length {limit}, "
            f"but got a string with length {len(text)} instead.",
            param=param,
            code="string_above_max_length",
        )
