"""What JSON types a tool's schema lets an argument have, for dialects that write values bare."""

from __future__ import annotations

import json
from typing import Any, cast

Schema = dict[str, Any]
Types = frozenset[str]

STRING: Types = frozenset({"string"})
_PYTHON = {"True": "true", "False": "false", "None": "null"}


def property_schema(schema: Schema, key: str) -> Schema | None:
    """The schema of one property; None where nothing is said of it."""
    properties = resolved(schema, schema).get("properties")
    found = properties.get(key) if isinstance(properties, dict) else None
    return cast(Schema, found) if isinstance(found, dict) else None


def resolved(schema: Schema, root: Schema) -> Schema:
    """Follows local `$ref`s, a bounded number of them."""
    for _ in range(16):
        ref = schema.get("$ref")
        if not isinstance(ref, str) or not ref.startswith("#"):
            break
        target: Any = root
        for part in ref[1:].strip("/").split("/") if ref != "#" else ():
            part = part.replace("~1", "/").replace("~0", "~")
            target = target.get(part) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            break
        schema = cast(Schema, target)
    return schema


def accepted_types(schema: Schema | None, root: Schema, depth: int = 0) -> Types | None:
    """JSON type names; None where anything goes. An enumerated string is `{"string", "enum"}`, as
    white space around it cannot be part of it."""
    if schema is None or depth > 16:
        return None
    schema = resolved(schema, root)
    if "enum" in schema or "const" in schema:
        values = schema["enum"] if isinstance(schema.get("enum"), list) else [schema.get("const")]
        return frozenset(type_of(value) for value in values) | {"enum"}
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(str(entry) for entry in named)
    for key in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(key), list):
            found = [accepted_types(cast(Schema, o), root, depth + 1) for o in options]
            known = [types for types in found if types is not None]
            return frozenset[str]().union(*known) if len(known) == len(found) else None
    if isinstance(parts := schema.get("allOf"), list) and parts:
        return accepted_types(cast(Schema, parts[0]), root, depth + 1)
    return None


def type_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def json_literal(text: str, types: Types | None) -> str | None:
    """`text` as JSON if it is a value of one of `types`; None where it is a string."""
    text = _PYTHON.get(text, text)
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        if types and "enum" in types and "string" in types:
            return json.dumps(text, ensure_ascii=False)
        return None
    kind = type_of(value)
    if types is None:
        return text
    if kind == "string":
        # A quoted text is a string with its quotes, unless it cannot be one otherwise.
        return None
    if kind == "integer" and "number" in types:
        return text
    return text if kind in types or "string" not in types else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
