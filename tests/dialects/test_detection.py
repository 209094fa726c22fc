"""A dialect is found by a call it would write itself, and by what templates really render."""

from __future__ import annotations

import json

import pytest

from templates.conversation import ToolCall
from templates.dialects import DIALECTS, detect, dialect

ARGUMENTS = {"city": "tuneyardville", "days": 2}
CALL = ToolCall("get_weather", json.dumps(ARGUMENTS))


@pytest.mark.parametrize("name", DIALECTS)
def test_each_dialect_is_known_by_its_own_call(name: str) -> None:
    found = detect(dialect(name).native_text((CALL,)), "get_weather", ARGUMENTS)
    assert found is not None
    if found.name != name:
        same = found.native_text((CALL,)) == dialect(name).native_text((CALL,))
        assert same, f"{name} is taken for {found.name}"


JSON = '{"city": "tuneyardville", "days": 2}'
RENDERED = {
    "qwen": f'<tool_call>\n{{"name": "get_weather", "arguments": {JSON}}}\n</tool_call>\n',
    "mistral": f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {JSON}, "id": "abc"}}]</s>',
    "llama3": f'{{"name": "get_weather", "parameters": {JSON}}}<|eot_id|>',
    "deepseek_v3_1": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
    f"{JSON}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "glm4_moe": "<tool_call>get_weather<arg_key>city</arg_key><arg_value>tuneyardville</arg_value>"
    "<arg_key>days</arg_key><arg_value>2</arg_value></tool_call>",
    "harmony": " to=functions.get_weather<|channel|>commentary json<|message|>" + JSON + "<|call|>",
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
    f"<|tool_call_argument_begin|>{JSON}<|tool_call_end|><|tool_calls_section_end|>",
}


@pytest.mark.parametrize("name", RENDERED)
def test_rendered_calls_of_model_templates_are_known(name: str) -> None:
    found = detect(RENDERED[name], "get_weather", ARGUMENTS)
    assert found is not None
    assert found.name == name


def test_text_that_no_parser_reads_has_no_dialect() -> None:
    assert detect("I call get_weather for tuneyardville.", "get_weather", ARGUMENTS) is None
