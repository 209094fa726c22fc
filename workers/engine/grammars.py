"""A request's grammar in the forms that engines take: choices as EBNF, JSON with bounded blanks.

JSON output may be indented, but a model that has lost its way would fill all its tokens with white
space; xgrammar's structural tags can bound it, and any JSON schema can be put into one.
"""

from __future__ import annotations

import json
from typing import Any

from workers.contract.messages import FailureKind
from workers.contract.parts import Grammar, GrammarKind
from workers.engine.backend import RefusedError

MAX_BLANKS = 64
"""White space in a row that JSON output may hold: room for indentation."""
JSON_OBJECT: dict[str, Any] = {"type": "object"}


def choices(grammar: Grammar) -> list[str]:
    """Raises RefusedError."""
    listed = _json(grammar)
    if not isinstance(listed, list) or not listed:
        raise _bad_choices()
    if not all(isinstance(choice, str) and choice for choice in listed):
        raise _bad_choices()
    return listed


def choice_grammar(grammar: Grammar) -> str:
    """The choices as EBNF. Raises RefusedError."""
    # A JSON string's escapes are those of an EBNF literal; escaped as ASCII, characters beyond the
    # first plane would be two surrogates each.
    return "root ::= " + " | ".join(json.dumps(c, ensure_ascii=False) for c in choices(grammar))


def json_schema(grammar: Grammar) -> Any:
    """The schema of a JSON grammar. Raises RefusedError."""
    return JSON_OBJECT if grammar.kind is GrammarKind.JSON_OBJECT else _json(grammar)


def structural_tag(grammar: Grammar) -> str:
    """A structural tag, or a JSON schema as one, with white space bounded. Raises RefusedError."""
    if grammar.kind is GrammarKind.STRUCTURAL_TAG:
        return json.dumps(bounded(_json(grammar)))
    form = {"type": "json_schema", "json_schema": json_schema(grammar)}
    return json.dumps({"type": "structural_tag", "format": bounded(form)})


def bounded(tag: Any) -> Any:
    """The structural tag with white space bounded in its JSON."""
    if isinstance(tag, list):
        return [bounded(part) for part in tag]
    if not isinstance(tag, dict):
        return tag
    if tag.get("type") == "json_schema" and "json_schema" in tag:
        return {"max_whitespace_cnt": MAX_BLANKS, **tag}
    return {key: bounded(part) for key, part in tag.items()}


def _json(grammar: Grammar) -> Any:
    try:
        return json.loads(grammar.source)
    except ValueError as error:
        message = f"The {grammar.kind} grammar is not JSON: {error}."
        raise RefusedError(FailureKind.INVALID_GRAMMAR, message, "response_format") from error


def _bad_choices() -> RefusedError:
    message = "The choices must be a list of strings that are not empty, with at least one member."
    return RefusedError(FailureKind.INVALID_GRAMMAR, message, "response_format")
