"""Random walks through the grammars: whatever one lets an engine say is read back as calls that
are valid under their schemas."""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import pytest
import torch
import xgrammar

from templates.conversation import Tool
from templates.dialects import DIALECTS, dialect
from templates.format import ToolChoice, ToolChoiceMode
from tests.dialects.grammars import grammar
from tests.dialects.streams import folded, run

VOCABULARY = [
    "</s>",
    *map(chr, range(32, 127)),
    "\n",
    "北",
    "｜",
    "▁",
    "<|",
    "|>",
    "</",
    ": ",
    ", ",
]
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer"},
        "wet": {"type": "boolean"},
        "xs": {"type": "array", "items": {"type": "number"}},
        "where": {
            "type": "object",
            "properties": {"at": {"type": "integer"}},
            "required": ["at"],
            "additionalProperties": False,
        },
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = (Tool("get_weather", None, WEATHER), Tool("ping"))


@functools.cache
def compiler() -> xgrammar.GrammarCompiler:
    info = xgrammar.TokenizerInfo(
        list(VOCABULARY), xgrammar.VocabType.RAW, stop_token_ids=[0], add_prefix_space=False
    )
    return xgrammar.GrammarCompiler(info, max_threads=1)


def walk(compiled: xgrammar.CompiledGrammar, seed: int, limit: int = 600) -> str | None:
    """One output that the grammar allows, ended as soon as it may; None if it grew too long."""
    rng = random.Random(seed)
    matcher = xgrammar.GrammarMatcher(compiled)
    mask = xgrammar.allocate_token_bitmask(1, len(VOCABULARY))
    said: list[str] = []
    for _ in range(limit):
        matcher.fill_next_token_bitmask(mask)
        bits = mask[0].tolist()
        allowed = [n for n in range(len(VOCABULARY)) if bits[n // 32] >> (n % 32) & 1]
        if 0 in allowed:
            return "".join(said)
        # Ends are made likelier than more of a free text, as a model would.
        ends = [n for n in allowed if VOCABULARY[n] in ('"', "<", "</", "}", ")", "]", "<|")]
        token = rng.choice(ends if ends and rng.random() < 0.3 else allowed)
        assert matcher.accept_token(token)
        said.append(VOCABULARY[token])
    return None


def fits(name: str, arguments: dict[str, Any]) -> bool:
    """Valid under the tool's schema, checked by xgrammar's own JSON grammar in schema order."""
    schema = WEATHER if name == "get_weather" else {"type": "object", "maxProperties": 0}
    if name == "ping":
        return arguments == {}
    ordered = {key: arguments[key] for key in schema["properties"] if key in arguments}
    if ordered.keys() != arguments.keys():
        return False
    plain = xgrammar.Grammar.from_json_schema(json.dumps(schema))
    text = json.dumps(ordered, ensure_ascii=False)
    return xgrammar.testing._is_grammar_accept_string(plain, text)


@pytest.mark.parametrize("name", DIALECTS)
def test_bound_output_is_read_back_as_valid_calls(name: str) -> None:
    torch.set_num_threads(1)
    entry = dialect(name)
    bound = entry.constrain(TOOLS, ToolChoice(ToolChoiceMode.REQUIRED), None)
    assert bound is not None
    compiled = compiler().compile_grammar(grammar(bound))
    texts = [text for seed in range(5) if (text := walk(compiled, seed)) is not None]
    assert texts
    for text in texts:
        answer = folded(run(entry.parser(TOOLS), [text]))
        assert answer.content == "", text
        assert answer.calls, text
        for call in answer.calls:
            assert fits(call.name, json.loads(call.arguments)), (text, call)
