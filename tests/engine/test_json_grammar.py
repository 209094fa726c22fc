"""What a JSON schema's grammar accepts: exactly JSON, written as json.dumps does."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import xgrammar
from hypothesis import given, settings
from hypothesis import strategies as st
from xgrammar.testing import _is_grammar_accept_string

from workers.engine.json_grammar import schema_grammar
from workers.engine.json_patterns import PatternError, text_pattern

ROOT = Path(__file__).resolve().parents[2]
NUMBERED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": "integer"},
        "b": {"type": "array", "items": {"type": "number"}},
        "c": {},
    },
    "required": ["a"],
    "additionalProperties": {"type": "string", "pattern": "^x"},
}
PATTERNS = (
    r"^.{1,3}$", r"^[\s\S]{1,3}$", r"^[^x]{1,3}$", r'^a["\\]b$', r"^a\nb$", r"^a\sb$", r"^a\W?b$",
    r"b", r"^a", r"b$", r"^(a|[b-h])+$", r"^a|b$", r"^(?:ab?)*$", r"^\x41\u00e9+?$", r"^[\]\-^a]$",
    r"^a{2}$", r"^a{2,}$", r"^\$\{\}$", r"^\d+(\.\d{1,2})?$", r"^$", "^é\U0001f600$", r"^(a|)$",
    r"^[\b\t]\t$", r"[^\d\s]\/", "^(?<year>[0-9]{4})$",
)  # fmt: skip
PYTHONS = {
    r"^.{1,3}$": r"^[^\n\r\u2028\u2029]{1,3}\Z",
    r"^a\W?b$": r"^a[^A-Za-z0-9_]?b\Z",
    "^(?<year>[0-9]{4})$": r"^[0-9]{4}\Z",
}
"""Patterns that Python writes otherwise, but for the last `$`."""
LIMITED = {"type": "string", "minLength": 2, "maxLength": 4}
JUDGED: list[tuple[dict[str, Any], str, bool]] = [
    *((LIMITED, text, True) for text in ('"ab"', r'"a\"b"', r'"\n\u00e9\\"', '"\U0001f600a"')),
    *((LIMITED, text, True) for text in (r'"\/ab"', r'"\uD83D\ude00a"', r'"\u0000\u001f"')),
    *((LIMITED, text, False) for text in ('"a"', '"abcde"', r'"\n\n\n\n\n"', r'"\ud83d\ude00"')),
    *((LIMITED, text, False) for text in ('"a\tb"', '"a\nb"', '"a\x01b"', r'"\ud83da"', r'"\qa"')),
    ({"type": ["string", "null"], "maxLength": 2}, r'"\"\""', True),
    ({"type": ["string", "null"], "maxLength": 2}, "null", True),
    ({"type": "object", "propertyNames": {"maxLength": 2}}, r'{"\n": 1}', True),
    ({"type": "object", "propertyNames": {"maxLength": 2}}, r'{"abc": 1}', False),
    ({"type": "object", "patternProperties": {"^x": {"type": "null"}}}, r'{"x\"": null}', True),
    ({"type": "object", "patternProperties": {"^x": {"type": "null"}}}, '{"x\n": null}', False),
    *((NUMBERED, text, True) for text in ('{"a": 1}', '{"a":1}', '{"a":1, "b":[1, 2.5,-3e10]}')),
    *((NUMBERED, text, True) for text in ('{"a":1, "c": {"x": [1,2],"y":{}}}', '{"a":1, "q":"x"}')),
    *((NUMBERED, text, False) for text in ('{ "a":1}', '{"a" :1}', '{"a":1 }', '{"a":  1}')),
    *((NUMBERED, text, False) for text in ('{"a":1,"b":[ 1]}', '{"a":1,\n"b":[]}', '{"a":\t1}')),
    *((NUMBERED, text, False) for text in ('{"a":1,"c":{ }}', '{"a":1,"c":[1 ]}')),
    (NUMBERED, '{"a":1,"c":1e999}', False),
    ({"type": "string", "enum": ['say "hi", : ']}, r'"say \"hi\", : "', True),
    ({"const": {"a": [1, 2]}}, '{"a":[1,2]}', True),
]  # fmt: skip


@pytest.mark.parametrize(("least", "most"), [(0, 200), (1, 128), (70, 300), (64, 192), (130, 140)])
def test_long_strings_are_counted_to_the_character(least: int, most: int) -> None:
    schema = {"type": "string", "minLength": least, "maxLength": most}
    for length in sorted({0, 1, 63, 64, 65, least - 1, least, most, most + 1, most + 64} - {-1}):
        fits = least <= length <= most
        assert accepts(schema, json.dumps("é" * length, ensure_ascii=False)) is fits, length
        assert accepts(schema, json.dumps("\n" * length)) is fits, length
    endless = {"type": "string", "minLength": least}
    assert accepts(endless, json.dumps("\n" * least))
    assert accepts(endless, json.dumps("a" * (most + 500)))
    assert not least or not accepts(endless, json.dumps("a" * (least - 1)))


def accepts(schema: Any, text: str) -> bool:
    grammar = xgrammar.Grammar.from_ebnf(schema_grammar({"json_schema": schema}))
    return _is_grammar_accept_string(grammar, text)


@pytest.mark.parametrize(("schema", "text", "fits"), JUDGED)
def test_strings_and_gaps_are_those_of_json(schema: Any, text: str, fits: bool) -> None:
    assert accepts(schema, text) is fits


TEXTS = st.text(st.sampled_from('abhx013 ."\\\n\t\x01é\u2028\U0001f600$]^{}/A'), max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PATTERNS), TEXTS, st.booleans())
def test_a_pattern_is_matched_by_what_the_string_means(
    pattern: str, text: str, is_ascii: bool
) -> None:
    """Against Python's own regular expressions; characters that JSON need not escape are not."""
    written = json.dumps(text, ensure_ascii=is_ascii and text.isascii())
    own = PYTHONS.get(pattern) or re.sub(r"(?<!\\)\$$", r"\\Z", pattern)
    assert accepts({"type": "string", "pattern": pattern}, written) is bool(re.search(own, text))


@pytest.mark.parametrize(
    "pattern",
    [r"(?=a)b", r"(?<!a)b", r"(a)\1", r"\bword", r"\p{L}", "a^b", "(a", "a)", "[a", "[b-a]",
     "a{2,1}", "*a", "a**", "[]", "a$b", "\\"],
)  # fmt: skip
def test_a_pattern_that_cannot_be_kept_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        text_pattern(pattern, in_json=True)


_PROGRAM = """
import json, sys
import xgrammar
from xgrammar.testing import _is_grammar_accept_string
from workers.engine.json_grammar import schema_grammar
for schema, text, _ in json.load(sys.stdin):
    grammar = xgrammar.Grammar.from_ebnf(schema_grammar({"json_schema": schema}))
    print(json.dumps(_is_grammar_accept_string(grammar, text)))
"""


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_compilers_of_other_engines_judge_alike(engine: str) -> None:
    python = ROOT / ".envs" / engine / "bin" / "python"
    if not python.exists():
        pytest.skip(f"there is no environment of {engine}")
    ran = subprocess.run(
        [python, "-c", _PROGRAM],
        input=json.dumps(JUDGED),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    judged = [json.loads(line) for line in ran.stdout.split()]
    assert judged == [fits for _, _, fits in JUDGED]
