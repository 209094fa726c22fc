"""A request's grammar in the three forms that every engine takes: EBNF, regex and structural tag.

All engines compile with xgrammar, and all are given the same text, so one request gives the same
language on each. JSON schemas become EBNF here: see `json_grammar`.
"""

from __future__ import annotations

import json
import re
from typing import Any

from workers.contract.messages import FailureKind
from workers.contract.parts import Grammar, GrammarKind
from workers.engine.backend import RefusedError
from workers.engine.json_grammar import schema_grammar

_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: (Check failed: \(.*\) is (true|false): )?")
"""When and where in its source xgrammar raised an error."""
ANY_OBJECT: dict[str, Any] = {"type": "object"}


def lowered(grammar: Grammar) -> Grammar:
    """`grammar` as EBNF, regex or structural tag. Takes long for large schemas. Raises
    RefusedError."""
    match grammar.kind:
        case GrammarKind.REGEX | GrammarKind.EBNF:
            return grammar
        case GrammarKind.CHOICE:
            return Grammar(GrammarKind.EBNF, _choice_grammar(grammar))
        case GrammarKind.JSON_OBJECT:
            return Grammar(GrammarKind.EBNF, schema_grammar({"json_schema": ANY_OBJECT}))
        case GrammarKind.JSON_SCHEMA:
            return Grammar(GrammarKind.EBNF, schema_grammar({"json_schema": _json(grammar)}))
        case GrammarKind.STRUCTURAL_TAG:
            return Grammar(grammar.kind, json.dumps(_with_exact_json(_json(grammar))))


def compiled_by(compiler: Any, simple: Grammar) -> Any:
    """A lowered grammar, compiled by xgrammar's compiler. Raises what that raises."""
    match simple.kind:
        case GrammarKind.REGEX:
            return compiler.compile_regex(simple.source)
        case GrammarKind.STRUCTURAL_TAG:
            return compiler.compile_structural_tag(simple.source)
        case _:
            return compiler.compile_grammar(simple.source)


def reason_of(error: Exception) -> str:
    """What xgrammar says of a grammar that it cannot compile."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _PLACE.sub("", lines[-1])[:300]


def invalid(message: str) -> RefusedError:
    return RefusedError(FailureKind.INVALID_GRAMMAR, message, "response_format")


def _with_exact_json(tag: Any) -> Any:
    """The structural tag with its JSON schemas as EBNF."""
    if isinstance(tag, list):
        return [_with_exact_json(part) for part in tag]
    if not isinstance(tag, dict):
        return tag
    if tag.get("type") == "json_schema" and "json_schema" in tag:
        return {"type": "grammar", "grammar": schema_grammar(tag)}
    return {key: _with_exact_json(part) for key, part in tag.items()}


def _choice_grammar(grammar: Grammar) -> str:
    listed = _json(grammar)
    if not isinstance(listed, list) or not listed:
        raise _bad_choices()
    if not all(isinstance(choice, str) and choice for choice in listed):
        raise _bad_choices()
    # A JSON string's escapes are those of an EBNF literal; escaped as ASCII, characters beyond the
    # first plane would be two surrogates each.
    return "root ::= " + " | ".join(json.dumps(c, ensure_ascii=False) for c in listed)


def _json(grammar: Grammar) -> Any:
    try:
        return json.loads(grammar.source)
    except ValueError as error:
        raise invalid(f"The {grammar.kind} grammar is not JSON: {error}.") from error
    except RecursionError as error:
        raise invalid(f"The {grammar.kind} grammar is nested too deep.") from error


def _bad_choices() -> RefusedError:
    return invalid(
        "The choices must be a list of strings that are not empty, with at least one member."
    )
