"""Dialects of LLaMA-Factory, against what it renders and reads (`data/tool_formats.json`)."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from templates.conversation import Tool, ToolCall
from templates.dialects import Dialect, dialect
from templates.dialects.llama import llama3
from templates.format import FormatError
from tests.dialects.streams import folded, run

FACTS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "tool_formats.json").read_text("utf-8")
)
NAMES = list(FACTS["formats"])
NATIVE = {
    key: {"mistral_tok": "mistral", "default_hyphen_name": "default"}.get(key, key)
    for key in FACTS["native_call_texts"]
}
TOOLS = tuple(Tool(**tool) for tool in FACTS["sample_tools"])
CALLS = tuple(
    ToolCall(call["name"], json.dumps(call["arguments"], ensure_ascii=False))
    for call in FACTS["sample_calls"]
)
TOOL_CASES = {
    "one_tool": TOOLS[:1],
    "two_tools": TOOLS,
    "no_parameters": (Tool("ping", "p"),),
    "empty_parameters": (Tool("ping", "p", {"type": "object", "properties": {}}),),
}


def named(name: str) -> Dialect:
    """The dialect, on the day of the facts."""
    return llama3(lambda: date(2024, 7, 26)) if name == "llama3" else dialect(name)


@pytest.mark.parametrize("case", TOOL_CASES)
@pytest.mark.parametrize("name", NAMES)
def test_tool_text_is_llama_factorys(name: str, case: str) -> None:
    expected = FACTS["formats"][name][f"tool_text|{case}"]
    if not isinstance(expected, str):
        # LLaMA-Factory fails on a tool without parameters here; ours takes none.
        expected = FACTS["formats"][name]["tool_text|empty_parameters"]
    assert named(name).tool_text(TOOL_CASES[case]) == expected


@pytest.mark.parametrize("name", NAMES)
def test_wrapped_tools_are_shown_as_llama_factory_shows_them(name: str) -> None:
    expected = FACTS["formats"][name]["tool_text|openai_wrapped"]
    assert named(name).tool_text(TOOLS[:1], wrapped=True) == expected


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_call_text_is_llama_factorys(name: str, number: int) -> None:
    expected = FACTS["formats"][name][f"call_text|{'one_call' if number == 1 else 'two_calls'}"]
    if isinstance(expected, str):
        assert dialect(name).call_text(CALLS[:number]) == expected
    else:
        with pytest.raises(FormatError, match="one call"):
            dialect(name).call_text(CALLS[:number])


@pytest.mark.parametrize("name", NAMES)
def test_what_llama_factory_extracts_is_extracted(name: str) -> None:
    facts = FACTS["formats"][name]
    for number, case in ((1, "one_call"), (2, "two_calls")):
        extracted = facts.get(f"extracted|{case}")
        if not isinstance(extracted, list):
            continue
        text = facts[f"call_text|{case}"]
        answer = folded(run(dialect(name).parser(TOOLS), [text]))
        assert [[call.name, call.arguments] for call in answer.calls] == extracted
        assert answer.content == ""
        if isinstance(facts[f"extracted|text_before|{case}"], list):
            answer = folded(run(dialect(name).parser(TOOLS), ["Let me check.\n" + text]))
            assert [[call.name, call.arguments] for call in answer.calls] == extracted
            assert answer.content == "Let me check."
        assert len(answer.calls) == number


@pytest.mark.parametrize("key", NATIVE)
def test_native_call_texts_are_read(key: str) -> None:
    tool = "get-weather" if "hyphen" in key else "get_weather"
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    parser = dialect(NATIVE[key]).parser((Tool(tool, None, schema),))
    answer = folded(run(parser, [FACTS["native_call_texts"][key]]))
    assert answer.content == ""
    assert [(call.name, json.loads(call.arguments)) for call in answer.calls] == [
        (tool, {"city": "Paris"})
    ]


@pytest.mark.parametrize("name", NAMES)
def test_api_history_renders_like_a_dataset(name: str) -> None:
    expected = FACTS["api_history_rendering"][name]["arguments_as_object (what datasets pass)"]
    arguments = '{"query":"x","k":1}'  # as an API client may space it
    assert dialect(name).call_text((ToolCall("search_docs", arguments),)) == expected
