"""Thinking apart from content, over every way of cutting the output."""

from __future__ import annotations

import json

import pytest
from xgrammar import Grammar
from xgrammar.testing import _is_grammar_accept_string

from templates.conversation import Tool
from templates.dialects import dialect
from templates.format import OutputConstraint, ToolChoice, ToolChoiceMode
from templates.reasoning import ReasoningParser, ThinkingWords, after_reasoning
from tests.dialects.streams import folded, run, splits

THINK = ThinkingWords("<think>\n", "\n</think>\n\n")
CHANNEL = ThinkingWords("<|channel>thought\n", "<channel|>")
TOOLS = (Tool("ping"),)
CALL = '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'


def parser(words: ThinkingWords, opened: bool) -> ReasoningParser:
    return ReasoningParser(dialect("qwen").parser(TOOLS), words, opened=opened)


@pytest.mark.parametrize(
    ("words", "opened", "text", "reasoning", "content", "calls"),
    [
        (THINK, False, "<think>\na < b.\n\nYes\n</think>\nIt is.", "a < b.\n\nYes", "It is.", 0),
        (THINK, True, "Hm.\n</think>\n\nFour.\n", "Hm.", "Four.\n", 0),
        (THINK, True, "<think>\nHm.\n</think>Four.", "Hm.", "Four.", 0),
        (THINK, True, "never closed </thi", "never closed </thi", "", 0),
        (THINK, True, "", "", "", 0),
        (THINK, False, "<thi", "", "<thi", 0),
        (THINK, False, "No.\n<think>later</think>", "", "No.\n<think>later</think>", 0),
        (THINK, False, "<think>\n\n</think>\n\nFour.", "", "Four.", 0),
        (THINK, False, "<think>a</think>\n\n" + CALL, "a", "", 1),
        (THINK, True, CALL + "</think>\n" + CALL, CALL, "", 1),
        (THINK, False, "\n\n plain", "", "\n\n plain", 0),
        (CHANNEL, False, "<|channel>thought\nHm.<channel|>Four.", "Hm.", "Four.", 0),
    ],
)  # fmt: skip
def test_thinking_is_told_from_content(
    words: ThinkingWords, opened: bool, text: str, reasoning: str, content: str, calls: int
) -> None:
    whole = run(parser(words, opened), [text])
    answer = folded(whole)
    assert (answer.reasoning, answer.content, len(answer.calls)) == (reasoning, content, calls)
    for pieces in splits(text):
        assert run(parser(words, opened), pieces) == whole, pieces


@pytest.mark.parametrize("opened", [True, False])
def test_a_required_call_may_follow_thinking(opened: bool) -> None:
    bound = dialect("qwen").constrain(TOOLS, ToolChoice(ToolChoiceMode.REQUIRED), None)
    assert bound is not None
    grammar = Grammar.from_structural_tag(after_reasoning(bound, THINK, opened=opened).source)
    begin = "" if opened else "<think>\n"
    assert _is_grammar_accept_string(grammar, f"{begin}Hm. {{}}\n</think>\n\n{CALL}")
    assert not _is_grammar_accept_string(grammar, f"{begin}Hm.\n</think>\n\nHello")
    assert _is_grammar_accept_string(grammar, CALL) == (not opened)


@pytest.mark.parametrize(
    ("kind", "source", "good", "bad"),
    [
        ("json_schema", '{"type": "integer"}', "12", "x"),
        ("json_object", "", '{"a": 1}', "[1]"),
        ("regex", "[ab]+", "abba", "c"),
        ("ebnf", 'root ::= "yes" | "no"', "yes", "maybe"),
        ("choice", json.dumps(["red", "green"]), "green", "blue"),
    ],
)
def test_every_kind_of_constraint_may_follow_thinking(
    kind: str, source: str, good: str, bad: str
) -> None:
    bound = after_reasoning(OutputConstraint(kind, source), THINK, opened=True)
    grammar = Grammar.from_structural_tag(bound.source)
    assert _is_grammar_accept_string(grammar, f"why\n</think>\n\n{good}")
    assert not _is_grammar_accept_string(grammar, f"why\n</think>\n\n{bad}")
