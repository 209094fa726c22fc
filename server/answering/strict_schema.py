"""What `strict: true` promises must be kept: a schema with parts that grammars cannot hold the
model to is refused before anything is generated, in OpenAI's words.

The parts were found by trying them: xgrammar compiles a schema that has them, and leaves them out.
Most of them OpenAI's strict subset does not have either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Place = tuple[str | int, ...]

_LEFT_OUT = frozenset(
    {
        "not",
        "if",
        "then",
        "else",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "uniqueItems",
        "contains",
        "minContains",
        "maxContains",
        "multipleOf",
        "$dynamicRef",
        "$recursiveRef",
    }
)
_FORMATS = frozenset(
    {
        "date-time",
        "date",
        "time",
        "duration",
        "email",
        "uuid",
        "ipv4",
        "ipv6",
        "hostname",
        "uri",
        "json-pointer",
    }
)
_ANNOTATIONS = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "discriminator",
        "$defs",
        "definitions",
        "$schema",
        "$id",
        "$comment",
        "$anchor",
    }
)
_NEED_TYPE = frozenset(
    {
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "pattern",
        "format",
        "minLength",
        "maxLength",
    }
)
_LENGTHS = ("minLength", "maxLength")
_LOOKAROUND = re.compile(r"\(\?<?[=!]")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "propertyNames", "unevaluatedProperties")


def broken_promise(schema: Mapping[str, Any]) -> str | None:
    """The first part of `schema` that cannot be enforced, as OpenAI puts it. Its size is checked
    before."""
    for place, part in _parts(schema):
        problem = _problem(part)
        if problem is not None:
            return f"In context={place!r}, {problem}"
    return None


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Each part before those within it."""
    waiting: list[tuple[Place, Mapping[str, Any]]] = [((), schema)]
    while waiting:
        place, part = waiting.pop()
        yield place, part
        inner = [(within, held) for within, held in _inner(part) if isinstance(held, Mapping)]
        waiting += [((*place, *within), held) for within, held in reversed(inner)]


def _inner(schema: Mapping[str, Any]) -> Iterator[tuple[Place, Any]]:
    for name in _SINGLE:
        yield (name,), schema.get(name)
    for name in _MAPS:
        held = schema.get(name)
        for key, part in held.items() if isinstance(held, Mapping) else ():
            yield (name, key), part
    for name in _LISTS:
        held = schema.get(name)
        for index, part in enumerate(held) if isinstance(held, list) else ():
            yield (name, index), part


def _problem(part: Mapping[str, Any]) -> str | None:
    left_out = sorted(_LEFT_OUT & part.keys())
    if left_out:
        return f"'{left_out[0]}' is not permitted."
    return _beside(part) or _typeless(part) or _text(part) or _required(part)


def _beside(part: Mapping[str, Any]) -> str | None:
    """References and alternatives stand alone: what is beside them is left out."""
    for name in ("$ref", "anyOf", "oneOf", "allOf"):
        others = sorted(part.keys() - _ANNOTATIONS - {name})
        if name in part and others:
            return f"'{name}' cannot be combined with '{others[0]}'."
    target = part.get("$ref")
    if isinstance(target, str) and not (target == "#" or target.startswith("#/")):
        return "'$ref' must begin with '#/'."
    every = part.get("allOf")
    if isinstance(every, list) and len(every) > 1:
        return "'allOf' is not permitted with more than one schema."
    return None


def _typeless(part: Mapping[str, Any]) -> str | None:
    bound = sorted(_NEED_TYPE & part.keys())
    return f"'{bound[0]}' needs a 'type'." if bound and "type" not in part else None


def _text(part: Mapping[str, Any]) -> str | None:
    form = part.get("format")
    known = isinstance(form, str) and form in _FORMATS
    if form is not None and part.get("type") == "string" and not known:
        return f"{form!r:.64} is not a supported format."
    for name in ("pattern", "format"):
        lengths = [length for length in _LENGTHS if length in part]
        if name in part and lengths:
            return f"'{name}' cannot be combined with '{lengths[0]}'."
    pattern = part.get("pattern")
    if isinstance(pattern, str) and _LOOKAROUND.search(pattern):
        return "'pattern' cannot look ahead or behind."
    return None


def _required(part: Mapping[str, Any]) -> str | None:
    named = part.get("required")
    known = part.get("properties", {})
    if not isinstance(named, list) or not isinstance(known, Mapping):
        return None
    for name in named:
        if not isinstance(name, str) or name not in known:
            return f"'required' names {name!r:.64}, which is not among 'properties'."
    return None
