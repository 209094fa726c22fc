"""Grammars of argument lists that are not JSON objects: Python keywords, Gemma's braces.

Arguments come in the order of the schema's properties (sorted for Gemma, as it writes them). What a
schema says beyond what these forms can hold is refused, not dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

from templates.dialects.argument_types import resolved
from templates.dialects.constraints import Format, Schema
from templates.format import FormatError

_INTEGER: Format = {"type": "regex", "pattern": r"-?(0|[1-9][0-9]{0,18})"}
_NUMBER: Format = {"type": "regex", "pattern": r"-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?"}
_PLAIN = frozenset({"type", "description", "title", "default", "examples", "format", "$ref"})
"""What may stand beside a type without narrowing it further (`format` is not enforced by JSON
schema either)."""


def _const(text: str) -> Format:
    return {"type": "const_string", "value": text}


def _sequence(*elements: Format) -> Format:
    return {"type": "sequence", "elements": list(elements)}


def _either(elements: list[Format]) -> Format:
    return elements[0] if len(elements) == 1 else {"type": "or", "elements": elements}


def _entries(parts: list[tuple[Format, bool]], separator: str) -> Format:
    """Entries in order, each with whether it must be there, joined by `separator`."""

    def after(start: int) -> list[Format]:
        out: list[Format] = []
        for entry, required in parts[start:]:
            joined = _sequence(_const(separator), entry)
            out.append(joined if required else {"type": "optional", "content": joined})
        return out

    options: list[Format] = []
    for at, (entry, required) in enumerate(parts):
        options.append(_sequence(entry, *after(at + 1)))
        if required:
            break
    else:
        options.append(_const(""))
    return _either(options)


def _split(schema: Schema) -> tuple[dict[str, Schema], frozenset[str]]:
    """Properties and the names of those required."""
    schema = resolved(schema, schema)
    properties = cast(dict[str, Schema], schema.get("properties") or {})
    required = frozenset(cast(list[str], schema.get("required") or ()))
    if missing := required - properties.keys():
        raise FormatError(f"The schema requires '{min(missing)}' without describing it.", "tools")
    return properties, required


def keyword_arguments(name: str, schema: Schema) -> list[Format]:
    """`key=value, ...`, values as JSON, which Python's reader here takes too."""
    if schema == {"type": "object"}:
        entry = _sequence({"type": "regex", "pattern": "[a-zA-Z_][a-zA-Z0-9_]{0,63}="}, _json({}))
        more = {"type": "star", "content": _sequence(_const(", "), entry)}
        return [{"type": "optional", "content": _sequence(entry, more)}]
    properties, required = _split(schema)
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    parts = [
        (_sequence(_const(f"{key}="), _json(shared | sub)), key in required)
        for key, sub in properties.items()
    ]
    return [_entries(parts, ", ")]


def _json(schema: Schema) -> Format:
    return {"type": "json_schema", "json_schema": schema or True}


def braced_arguments(schema: Schema, quote: str) -> list[Format]:
    """What stands between the braces of a call."""
    if schema == {"type": "object"}:
        return [{"type": "grammar", "grammar": _any_entries(quote)}]
    return [_braced(schema, schema, _quoted(quote), quote, 0)]


def _quoted(quote: str) -> Callable[[Format | None], Format]:
    def quoted(content: Format | None) -> Format:
        if content is None:
            return {"type": "tag", "begin": quote, "content": {"type": "any_text"}, "end": quote}
        inner = () if content == _const("") else (content,)
        return _sequence(_const(quote), *inner, _const(quote))

    return quoted


def _braced(
    schema: Schema, root: Schema, quoted: Callable[[Format | None], Format], quote: str, depth: int
) -> Format:
    properties, required = _split(schema)
    parts = [
        (
            _sequence(_const(f"{key}:"), _value(properties[key], root, quoted, quote, depth + 1)),
            key in required,
        )
        for key in sorted(properties)
    ]
    return _entries(parts, ",") if parts else _const("")


def _value(
    schema: Schema, root: Schema, quoted: Callable[[Format | None], Format], quote: str, depth: int
) -> Format:
    if depth > 12:
        raise FormatError("The schema is nested too deep for this model's tool calls.", "tools")
    schema = resolved(schema, root)
    options = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(options, list):
        given = cast(list[Schema], options)
        return _either([_value(option, root, quoted, quote, depth + 1) for option in given])
    if "enum" in schema or "const" in schema:
        values = cast(list[Any], schema.get("enum") or [schema.get("const")])
        return _either([_constant(value, quoted) for value in values])
    kind = schema.get("type")
    if isinstance(kind, list):
        kinds = [schema | {"type": entry} for entry in cast(list[str], kind)]
        return _either([_value(one, root, quoted, quote, depth + 1) for one in kinds])
    match kind:
        case "object" if schema.get("properties"):
            inner = _braced(schema, root, quoted, quote, depth + 1)
            return _sequence(_const("{"), inner, _const("}"))
        case "array" if isinstance(schema.get("items"), dict):
            _refuse_more(schema, {"items"})
            item = _value(cast(Schema, schema["items"]), root, quoted, quote, depth + 1)
            more: Format = {"type": "star", "content": _sequence(_const(","), item)}
            items: Format = {"type": "optional", "content": _sequence(item, more)}
            return _sequence(_const("["), items, _const("]"))
        case _:
            return _scalar(schema, kind, quoted, quote)


def _scalar(
    schema: Schema, kind: object, quoted: Callable[[Format | None], Format], quote: str
) -> Format:
    _refuse_more(schema, {"additionalProperties"} if kind == "object" else set())
    match kind:
        case "string":
            return quoted(None)
        case "integer":
            return _INTEGER
        case "number":
            return _NUMBER
        case "boolean":
            return _either([_const("true"), _const("false")])
        case "null":
            return _const("null")
        case "object":
            return _sequence(
                _const("{"), {"type": "grammar", "grammar": _any_entries(quote)}, _const("}")
            )
        case "array":
            return {"type": "grammar", "grammar": _any_entries(quote, root="array")}
        case _:
            return {"type": "grammar", "grammar": _any_entries(quote, root="value")}


def _refuse_more(schema: Schema, known: set[str]) -> None:
    if more := sorted(schema.keys() - _PLAIN - known):
        raise FormatError(
            f"This model's tool calls cannot be held to the schema keyword '{more[0]}'.", "tools"
        )


def _constant(value: Any, quoted: Callable[[Format | None], Format]) -> Format:
    if isinstance(value, str):
        return quoted(_const(value))
    if isinstance(value, dict | list):
        raise FormatError("This model's tool calls cannot be held to a constant object.", "tools")
    return _const(json.dumps(value))


def _any_entries(quote: str, root: str = "entries") -> str:
    """An EBNF grammar of any entries (or value) of Gemma's form."""
    mark = json.dumps(quote)
    return f"""root ::= {root}
entries ::= "" | entry ("," entry)*
entry ::= [a-zA-Z_] [a-zA-Z0-9_]* ":" value
value ::= string | number | "true" | "false" | "null" | array | "{{" entries "}}"
array ::= "[" (value ("," value)*)? "]"
number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)?
string ::= {mark} [^<]* {mark}
"""
