"""Grammars compile in xgrammar, accept what they should, and what they accept is read back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from templates.conversation import Tool, ToolCall
from templates.dialects import DIALECTS, Dialect, dialect
from templates.format import ToolChoice, ToolChoiceMode
from templates.reasoning import ThinkingWords, after_reasoning
from tests.dialects.grammars import accepts

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer"},
    },
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("get_weather", "Weather", SCHEMA)
ADD = Tool(
    "add",
    None,
    {
        "type": "object",
        "properties": {"xs": {"type": "array", "items": {"type": "number"}}},
        "required": ["xs"],
    },
)
TOOLS = (WEATHER, ADD)
REQUIRED, AUTO = ToolChoiceMode.REQUIRED, ToolChoiceMode.AUTO
ONE = (ToolCall("get_weather", '{"city": "Paris", "unit": "celsius", "days": 2}'),)
OTHER = (ToolCall("add", '{"xs": [1, 2.5]}'),)
WRONG = (ToolCall("get_weather", '{"city": "Paris", "days": "many"}'),)


def said(entry: Dialect, calls: tuple[ToolCall, ...]) -> str:
    return entry.native_text(calls)


@pytest.mark.parametrize("name", DIALECTS)
def test_required_takes_calls_only(name: str) -> None:
    entry = dialect(name)
    bound = entry.constrain(TOOLS, ToolChoice(REQUIRED), None)
    assert accepts(bound, said(entry, ONE))
    assert accepts(bound, said(entry, OTHER))
    assert not accepts(bound, "Hello")
    assert not accepts(bound, said(entry, WRONG))
    if entry.layout.parallel:
        assert accepts(bound, said(entry, ONE + OTHER))


@pytest.mark.parametrize("name", DIALECTS)
def test_a_named_tool_is_the_only_one_and_called_once(name: str) -> None:
    entry = dialect(name)
    bound = entry.constrain(TOOLS, ToolChoice(REQUIRED, ("add",)), None)
    assert accepts(bound, said(entry, OTHER))
    assert not accepts(bound, said(entry, ONE))
    if entry.layout.parallel:
        assert not accepts(bound, said(entry, OTHER + OTHER))


@pytest.mark.parametrize("name", DIALECTS)
def test_without_parallel_calls_one_call_is_the_most(name: str) -> None:
    entry = dialect(name)
    for mode in (REQUIRED, AUTO):
        bound = entry.constrain(TOOLS, ToolChoice(mode, parallel=False), None)
        if not entry.layout.parallel and mode is AUTO:
            assert bound is None
            continue
        assert accepts(bound, said(entry, ONE))
        assert accepts(bound, "Hello there.") == (mode is AUTO)
        if entry.layout.parallel:
            assert not accepts(bound, said(entry, ONE + OTHER))


@pytest.mark.parametrize("name", DIALECTS)
def test_strict_tools_bind_calls_but_not_content(name: str) -> None:
    entry = dialect(name)
    strict = (Tool(WEATHER.name, None, SCHEMA, strict=True), ADD)
    bound = entry.constrain(strict, ToolChoice(), None)
    assert accepts(bound, "Hello there.")
    assert accepts(bound, "")
    assert accepts(bound, said(entry, ONE))
    assert not accepts(bound, said(entry, WRONG))
    if entry.layout.trigger:
        assert accepts(bound, "Let me check.\n" + said(entry, ONE))
    if entry.layout.parallel:
        assert accepts(bound, said(entry, ONE + OTHER))


@pytest.mark.parametrize("name", DIALECTS)
def test_allowed_tools_bar_the_others(name: str) -> None:
    entry = dialect(name)
    bound = entry.constrain(TOOLS, ToolChoice(AUTO, ("add",)), None)
    assert accepts(bound, "Hello there.")
    assert accepts(bound, said(entry, OTHER))
    assert not accepts(bound, said(entry, ONE))


@pytest.mark.parametrize("name", DIALECTS)
def test_a_response_schema_binds_content_unless_a_tool_is_called(name: str) -> None:
    entry = dialect(name)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    with_tools = entry.constrain(TOOLS, ToolChoice(), schema)
    opening = entry.layout.content_opening
    assert accepts(with_tools, opening + '{"a": 1}')
    assert accepts(with_tools, said(entry, ONE))
    assert not accepts(with_tools, "Hello")
    alone = entry.constrain((), ToolChoice(), schema)
    assert accepts(alone, opening + '{"a": 1}')
    assert not accepts(alone, opening + '{"a": "x"}')


@pytest.mark.parametrize("name", DIALECTS)
def test_a_free_choice_is_not_bound(name: str) -> None:
    assert dialect(name).constrain(TOOLS, ToolChoice(), None) is None
    assert dialect(name).constrain(TOOLS, ToolChoice(ToolChoiceMode.NONE), None) is None


REFERRING: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"$ref": "#/$defs/A"},
        "b": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["a", "b"],
    "additionalProperties": False,
    "$defs": {
        "A": {
            "type": "object",
            "properties": {"n": {"type": "integer"}},
            "required": ["n"],
            "additionalProperties": False,
        }
    },
}


@pytest.mark.parametrize("name", DIALECTS)
def test_references_and_unions_bind_arguments(name: str) -> None:
    entry = dialect(name)
    tools = (Tool("f", None, REFERRING, strict=True),)
    for choice in (ToolChoice(REQUIRED), ToolChoice()):
        bound = entry.constrain(tools, choice, None)
        assert accepts(bound, said(entry, (ToolCall("f", '{"a": {"n": 1}, "b": null}'),)))
        assert not accepts(bound, said(entry, (ToolCall("f", '{"a": {"n": "x"}, "b": null}'),)))
        assert not accepts(bound, said(entry, (ToolCall("f", '{"b": null}'),)))


@pytest.mark.parametrize("name", [n for n, e in DIALECTS.items() if not e.reads_reasoning])
def test_every_required_call_may_follow_thinking(name: str) -> None:
    entry = dialect(name)
    bound = entry.constrain(TOOLS, ToolChoice(REQUIRED), None)
    assert bound is not None
    after = after_reasoning(bound, ThinkingWords("<think>\n", "\n</think>\n\n"), opened=False)
    assert accepts(after, "<think>\nHm.\n</think>\n\n" + said(entry, ONE))
    assert accepts(after, said(entry, ONE))
    assert not accepts(after, "<think>\nHm.\n</think>\n\nHello")


LIMITED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "held": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 3}},
            "required": ["name"],
            "additionalProperties": False,
        }
    },
    "required": ["held"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("name", [n for n in DIALECTS if "gemma" not in n])
def test_strings_of_limited_length_may_be_written_with_escapes(name: str) -> None:
    entry = dialect(name)
    bound = entry.constrain((Tool("f", None, LIMITED),), ToolChoice(REQUIRED), None)
    for held, fits in (('a"b', True), ("\n\\", True), ("\n\n\n\n", False), ("abcd", False)):
        calls = (ToolCall("f", json.dumps({"held": {"name": held}})),)
        assert accepts(bound, said(entry, calls)) is fits, held
