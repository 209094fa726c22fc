r"""JSON schemas as EBNF in which strings and white space are exactly JSON's.

xgrammar turns a schema into a grammar, and its text is mended where that is not exact:

- strings of limited length hold raw control characters and no escapes there; here they are
  sequences of JSON characters, an escape being one;
- patterns match the raw text between the quotes; here they match what the string means;
- white space is free in every gap; here one blank may follow `:` and `,`, as json.dumps writes it,
  and the line breaks between the tags of XML-like calls are few;
- exponents have any length there, and two digits here: what is read is a number, not infinity.

A pattern is known again in the grammar's text by its number, which stands in the schema for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from workers.engine.json_patterns import CHARACTER, PatternError, text_pattern

_STRING = r'"(?:[^"\\]|\\.)*"'
_CLASS = r"\[(?:[^\]\\]|\\.)*\]\*?"
_LEXEME = re.compile(
    rf'(?P<ahead>\(=\((?:{_STRING}|{_CLASS}|[^()"\[])*\)\))'
    rf'|Regex\("\^z(?P<pattern>\d+)z\$", json_string=true\)'
    rf'|(?P<plain>"z"(?: "\d")+ "z")'
    r'|"\\"" \w+\{(?P<least>\d+), (?P<most>-?\d+)\} "\\""'
    rf"|{_STRING}|{_CLASS}"
)
"""Looking ahead, a pattern in JSON and one in plain text, string of limited length, literal, and
class of characters."""
_GAP = r"[ \n\r\t]*"
_BLANK_AFTER = ('","', '":"')
_NOTHING_AFTER = ('"["', '"{"')
_NOTHING_BEFORE = ('","', '":"', '"]"', '"}"')
_ANY_EXPONENT = "[eE] basic_number_4 basic_number_digits{1, -1}"
_EXPONENT = "[eE] basic_number_4 basic_number_digits{1, 2}"
_BLOCK = 64
_LONGEST = 128
"""Characters of a string that one expression holds."""
_LAYOUT = r"[ \n\r\t]{0,2}"

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = (
    "items",
    "additionalProperties",
    "additionalItems",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
    "contains",
    "not",
)


def schema_grammar(part: dict[str, Any]) -> str:
    """`part` is a structural tag's: `json_schema`, and the `style` of calls that are not JSON.
    Raises PatternError, RecursionError, and what xgrammar raises for schemas it cannot read."""
    import xgrammar

    patterns = _Patterns()
    schema = patterns.replaced(part["json_schema"])
    form = {**part, "type": "json_schema", "json_schema": schema}
    form.pop("max_whitespace_cnt", None)
    tag = json.dumps({"type": "structural_tag", "format": form})
    text = str(xgrammar.Grammar.from_structural_tag(tag))
    between_tags = '""' if part.get("style", "json") == "json" else _LAYOUT
    text = text.replace(_ANY_EXPONENT, _EXPONENT)
    return _exact(text, patterns.given, between_tags)


class _Patterns:
    def __init__(self) -> None:
        self.given: list[str] = []

    def replaced(self, schema: Any) -> Any:
        """The schema with a number for each pattern."""
        if not isinstance(schema, dict):
            return schema
        out = dict(schema)
        if isinstance(out.get("pattern"), str):
            out["pattern"] = self._number(out["pattern"])
        for name in _SINGLE:
            if name in out:
                out[name] = self._either(out[name])
        for name in _LISTS:
            if name in out:
                out[name] = self._either(out[name])
        for name in _MAPS:
            if isinstance(held := out.get(name), dict):
                named = {key: self.replaced(value) for key, value in held.items()}
                if name == "patternProperties":
                    named = {self._number(key): value for key, value in named.items()}
                out[name] = named
        return out

    def _either(self, held: Any) -> Any:
        if isinstance(held, list):
            return [self.replaced(part) for part in held]
        return self.replaced(held)

    def _number(self, pattern: str) -> str:
        self.given.append(pattern)
        return f"^z{len(self.given) - 1}z$"


def _exact(text: str, patterns: list[str], between_tags: str) -> str:
    """Raises PatternError."""
    lexemes = list(_LEXEME.finditer(text))
    rules = _Rules()
    out: list[str] = []
    end = 0
    for index, lexeme in enumerate(lexemes):
        out.append(text[end : lexeme.start()])
        end = lexeme.end()
        said = lexeme[0]
        if said == _GAP:
            before = _adjoining(text, lexemes[index - 1] if index else None, lexeme)
            following = lexemes[index + 1] if index + 1 < len(lexemes) else None
            said = _gap(before, _adjoining(text, lexeme, following), between_tags)
        elif lexeme["least"] is not None:
            said = rules.limited(int(lexeme["least"]), int(lexeme["most"]))
        elif lexeme["pattern"] is not None:
            said = _regex(_pattern(patterns[int(lexeme["pattern"])], in_json=True))
        elif lexeme["plain"] is not None:
            number = int("".join(filter(str.isdigit, said)))
            said = rules.regex(_pattern(patterns[number], in_json=False))
        out.append(said)
    out.append(text[end:])
    return "".join([*out, *rules.text])


class _Rules:
    """Rules for what cannot stand within others. Equal strings share one."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    @property
    def text(self) -> list[str]:
        return [f"{name} ::= {body}\n" for body, name in self._names.items()]

    def regex(self, pattern: str) -> str:
        return self._rule(_regex(pattern))

    def limited(self, least: int, most: int) -> str:
        """A string of so many characters; -1: no most. A long one is made of blocks: states take
        time to compile, and there is one for every character that may be left."""
        if most < 0:
            blocks, rest = divmod(least, _BLOCK)
            return self._blocks([(blocks, blocks, rest, "")])
        if most <= _LONGEST:
            return self.regex(f'"{CHARACTER}{{{least},{most}}}"')
        blocks, rest = divmod(most, _BLOCK)
        first, first_rest = divmod(least, _BLOCK)
        if first == blocks:
            return self._blocks([(blocks, blocks, first_rest, rest)])
        spans = [(blocks, blocks, 0, rest)]
        if first_rest:
            spans.append((first, first, first_rest, _BLOCK - 1))
            first += 1
        if first < blocks:
            spans.append((first, blocks - 1, 0, _BLOCK - 1))
        return self._blocks(spans)

    def _blocks(self, spans: Sequence[tuple[int, int, int, int | str]]) -> str:
        """Strings of so many blocks, and then so many characters."""
        block = self.regex(f"{CHARACTER}{{{_BLOCK}}}")
        options = [
            f"{block}{{{fewest},{most}}} {self.regex(f'{CHARACTER}{{{least},{last}}}')}"
            for fewest, most, least, last in spans
        ]
        return f'"\\"" ({" | ".join(options)}) "\\""'

    def _rule(self, body: str) -> str:
        return self._names.setdefault(body, f"exact_{len(self._names)}")


def _regex(pattern: str) -> str:
    return f"Regex({json.dumps(pattern, ensure_ascii=False)})"


def _pattern(pattern: str, *, in_json: bool) -> str:
    try:
        return text_pattern(pattern, in_json=in_json)
    except PatternError as error:
        raise PatternError(f"The pattern {pattern[:100]!r} is not supported: {error}.") from error


def _adjoining(text: str, first: re.Match[str] | None, second: re.Match[str] | None) -> str:
    """Of two lexemes, one of which is a gap, the other; empty where something is between them."""
    if first is None or second is None or text[first.end() : second.start()].strip(" "):
        return ""
    return second[0] if first[0] == _GAP else first[0]


def _gap(before: str, after: str, between_tags: str) -> str:
    if before in _BLANK_AFTER:
        return "[ ]{0,1}"
    if before in _NOTHING_AFTER or after in _NOTHING_BEFORE:
        return '""'
    return between_tags
