"""gpt-oss's channels."""

from __future__ import annotations

import pytest

from templates.conversation import Tool, ToolCall
from templates.dialects import dialect
from templates.format import ToolChoice, ToolChoiceMode
from tests.dialects.streams import folded, run, splits
from tests.dialects.test_constraints import accepts

TOOLS = (Tool("add", None, {"type": "object", "properties": {"a": {"type": "integer"}}}),)
ANALYSIS = "<|channel|>analysis<|message|>Think. a<b<|end|>"
CALL = '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}<|call|>'
ADD = (ToolCall("add", '{"a": 1}'),)


@pytest.mark.parametrize(
    ("text", "reasoning", "content", "calls"),
    [
        ("Plain.", "", "Plain.", ()),
        (
            ANALYSIS + "<|start|>assistant<|channel|>final<|message|>Four.",
            "Think. a<b",
            "Four.",
            (),
        ),
        (ANALYSIS + "<|start|>assistant" + CALL, "Think. a<b", "", ADD),
        ('to=functions.add<|channel|>commentary json<|message|>{"a": 1}', "", "", ADD),
        (
            "<|channel|>commentary<|message|>Let me.<|end|><|start|>assistant" + CALL,
            "",
            "Let me.",
            ADD,
        ),
        ("<|channel|>final<|message|>x <|", "", "x <|", ()),
        ("<|channel|>analysis<|message|>cut of", "cut of", "", ()),
        ("<|channel|>analy", "", "<|channel|>analy", ()),
    ],
)
def test_channels_are_told_apart(
    text: str, reasoning: str, content: str, calls: tuple[ToolCall, ...]
) -> None:
    whole = run(dialect("harmony").parser(TOOLS), [text])
    answer = folded(whole)
    assert (answer.reasoning, answer.content, answer.calls) == (reasoning, content, calls)
    for pieces in splits(text):
        assert run(dialect("harmony").parser(TOOLS), pieces) == whole, pieces


def test_channels_are_read_without_tools() -> None:
    text = ANALYSIS + "<|start|>assistant<|channel|>final<|message|>Four."
    answer = folded(run(dialect("harmony").parser(()), [text]))
    assert (answer.reasoning, answer.content) == ("Think. a<b", "Four.")


def test_bound_output_may_begin_with_analysis() -> None:
    bound = dialect("harmony").constrain(TOOLS, ToolChoice(ToolChoiceMode.REQUIRED), None)
    assert accepts(bound, ANALYSIS + "<|start|>assistant" + CALL)
    assert not accepts(bound, ANALYSIS + "<|start|>assistant<|channel|>final<|message|>No.")
    strict = (Tool("add", None, TOOLS[0].parameters, strict=True),)
    bound = dialect("harmony").constrain(strict, ToolChoice(), None)
    assert accepts(bound, ANALYSIS + "<|start|>assistant" + CALL)
    assert not accepts(bound, ANALYSIS + "<|start|>assistant" + CALL.replace("1", '"x"'))
    assert not accepts(bound, " to=functions.add<|channel|>commentary json<|message|>{}")
    assert accepts(bound, "<|channel|>commentary<|message|>Let me.<|end|>")
