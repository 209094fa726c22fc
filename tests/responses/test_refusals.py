"""What cannot be honoured is refused by name, and what would cost others is refused at once."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from server.responses.items import MAX_ITEMS
from tests.gateway.conftest import MODEL
from tests.responses.conftest import WEATHER
from tests.responses.test_create import user

CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "x"}
PNG = "data:image/png;base64,aGk="


def part(**fields: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [fields]}]}


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"background": True, "store": False}, "background", "invalid_value"),
    ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
    ({"moderation": {"model": "m"}}, "moderation", "unsupported_parameter"),
    ({"context_management": [{"type": "x"}]}, "context_management", "unsupported_parameter"),
    ({"n": 2}, "n", "unsupported_parameter"),
    ({"text": {"verbosity": "low"}}, "text.verbosity", "unsupported_value"),
    ({"reasoning": {"summary": "detailed"}}, "reasoning.summary", "unsupported_value"),
    (
        {"reasoning": {"generate_summary": "concise"}},
        "reasoning.generate_summary",
        "unsupported_value",
    ),
    ({"reasoning": {"mode": "pro"}}, "reasoning.mode", "unsupported_value"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid_value"),
    ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
    ({"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"include": ["all"]}, "include[0]", "invalid_value"),
    ({"stream_options": {"include_obfuscation": True}}, "stream_options", "invalid_value"),
    ({"max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value"),
    ({"temperature": 3}, "temperature", "decimal_above_max_value"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length"),
    ({"max_tokens": 5}, "max_tokens", "unknown_parameter"),
    ({"messages": []}, "messages", "unknown_parameter"),
    ({"previous_response_id": "resp_none"}, "previous_response_id", "previous_response_not_found"),
    ({"input": None}, "input", "missing_required_parameter"),
    ({"input": []}, "input", "missing_required_parameter"),
    ({"input": 5}, "input", "invalid_type"),
    ({"input": [5]}, "input[0]", "invalid_type"),
    ({"input": [{}]}, "input[0].role", "missing_required_parameter"),
    ({"input": [{"type": "web_search_call"}]}, "input[0].type", "unsupported_value"),
    ({"input": [{"type": "custom_tool_call"}]}, "input[0].type", "unsupported_value"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "invalid_value"),
    ({"input": [{**user("x"), "name": "y"}]}, "input[0].name", "unknown_parameter"),
    ({"input": [OUTPUT]}, "input[0].call_id", "invalid_value"),
    ({"input": [CALL, CALL, OUTPUT]}, "input[1].call_id", "invalid_value"),
    ({"input": [CALL]}, "input", "invalid_value"),
    ({"input": [CALL, user("x")]}, "input", "invalid_value"),
    (
        {"input": [user("x"), {**CALL, "arguments": "{"}, OUTPUT]},
        "input[1].arguments",
        "invalid_value",
    ),
    ({"input": [{**CALL, "async": True}, OUTPUT]}, "input[0].async", "unsupported_parameter"),
    (
        {"input": [user("x"), {"role": "assistant", "content": "y", "phase": "commentary"}]},
        "input[1].phase",
        "unsupported_value",
    ),
    (
        {"input": [{**CALL, "namespace": "n"}, OUTPUT]},
        "input[0].namespace",
        "unsupported_parameter",
    ),
    (
        {"input": [CALL, {**OUTPUT, "output": [{"type": "input_image", "image_url": PNG}]}]},
        "input[1].output[0].type",
        "unsupported_value",
    ),
    (
        {"input": [{"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "gAAA"}]},
        "input[0].encrypted_content",
        "invalid_encrypted_content",
    ),
    (part(type="input_file", file_id="f"), "input[0].content[0].type", "unsupported_value"),
    (part(type="output_text", text="x"), "input[0].content[0].type", "invalid_value"),
    (part(type="picture"), "input[0].content[0].type", "invalid_value"),
    (
        part(type="input_image", file_id="f"),
        "input[0].content[0].file_id",
        "unsupported_parameter",
    ),
    (part(type="input_image"), "input[0].content[0].image_url", "missing_required_parameter"),
    (part(type="input_image", image_url=PNG), "input[0].content[0]", "unsupported_value"),
    (
        {"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]},
        "input[0].content[0].type",
        "invalid_value",
    ),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
    ({"tools": [WEATHER, WEATHER]}, "tools[1].name", "invalid_value"),
    (
        {"tools": [{**WEATHER, "parameters": {"type": "object", "not": {}}}]},
        "tools[0].parameters",
        "invalid_function_parameters",
    ),
    (
        {"tools": [{**WEATHER, "defer_loading": True}]},
        "tools[0].defer_loading",
        "unsupported_parameter",
    ),
    (
        {"tools": [{**WEATHER, "output_schema": {}}]},
        "tools[0].output_schema",
        "unsupported_parameter",
    ),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    (
        {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "other"}},
        "tool_choice.name",
        "invalid_value",
    ),
    (
        {"tools": [WEATHER], "tool_choice": {"type": "web_search"}},
        "tool_choice.type",
        "unsupported_value",
    ),
    (
        {
            "tools": [WEATHER],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "mcp", "server_label": "s"}],
            },
        },
        "tool_choice.tools[0].type",
        "unsupported_value",
    ),
    (
        {
            "text": {
                "format": {
                    "type": "json_schema",
                    "name": "x",
                    "schema": {"not": {}},
                    "strict": True,
                }
            }
        },
        "text.format",
        "invalid_json_schema",
    ),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
]
HOSTED = (
    *("web_search", "web_search_preview", "file_search", "code_interpreter", "computer"),
    *("computer_use_preview", "mcp", "image_generation", "shell", "local_shell"),
    *("apply_patch", "custom", "tool_search", "namespace"),
)


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED)
def test_it_is_refused_by_name(
    raw: httpx.Client, fields: dict[str, Any], param: str, code: str
) -> None:
    for stream in (False, True):
        if stream and "stream_options" in fields:
            continue
        body = {"model": MODEL, "input": "say hello", "stream": stream, **fields}
        answer = raw.post("/responses", json=body)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == (param, code), error
        assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("kind", HOSTED)
def test_hosted_tools_are_refused_by_name(raw: httpx.Client, kind: str) -> None:
    tools = [WEATHER, {"type": kind, "name": "x", "server_label": "y"}]
    answer = raw.post("/responses", json={"model": MODEL, "input": "hi", "tools": tools})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["param"], error["code"]) == ("tools[1].type", "unsupported_value")
    assert kind in error["message"]


def test_a_model_that_is_not_there_is_a_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.responses.create(model="none", input="hi")
    assert (refused.value.param, refused.value.code) == ("model", "model_not_found")


def test_compaction_and_the_list_are_refused_by_name(raw: httpx.Client) -> None:
    answer = raw.post("/responses/compact", json={"model": MODEL, "input": "hi"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unsupported_endpoint"
    assert raw.get("/responses").status_code == 405


@pytest.mark.parametrize("fields", [{"personality": "friendly"}, {"conversation": "c"}])
def test_counting_refuses_what_creating_does(raw: httpx.Client, fields: dict[str, Any]) -> None:
    body = {"model": MODEL, "input": "hi", **fields}
    answer = raw.post("/responses/input_tokens", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == next(iter(fields))


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"x": schema}}
    return schema


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"input": [user("x")] * (MAX_ITEMS + 1)}, "array_above_max_length"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}] * 1025}]},
        "array_above_max_length",
    ),
    ({"tools": [{**WEATHER, "name": f"f{n}"} for n in range(129)]}, "array_above_max_length"),
    ({"tools": [{**WEATHER, "parameters": nested(50)}]}, "invalid_function_parameters"),
    (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": nested(50)}}},
        "invalid_json_schema",
    ),
    ({"metadata": {f"k{n}": "v" for n in range(17)}}, "object_above_max_properties"),
    ({"input": [{**CALL, "call_id": "c" * 65}]}, "string_above_max_length"),
    ({"input": [{"type": "item_reference", "id": "m" * 129}]}, "string_above_max_length"),
]


@pytest.mark.parametrize(("fields", "code"), HOSTILE)
def test_what_is_too_much_is_refused(raw: httpx.Client, fields: dict[str, Any], code: str) -> None:
    answer = raw.post("/responses", json={"model": MODEL, "input": "hi", **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code


def test_a_body_of_200_levels_is_refused(raw: httpx.Client) -> None:
    deep = '{"x":' * 300 + "1" + "}" * 300
    for place in (
        '"input":[%s]',
        '"tools":[%s]',
        '"reasoning":%s',
        '"input":"x","conversation":%s',
    ):
        body = f'{{"model":"{MODEL}",{place % deep}}}'
        answer = raw.post("/responses", content=body.encode())
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_json"


def test_an_input_too_large_to_keep_is_answered_and_not_kept(raw: httpx.Client) -> None:
    items = [user("x" * 3_000_000), user("y" * 3_000_000), user("z" * 3_000_000)]
    body = {"model": MODEL, "input": items, "store": True}
    answer = raw.post("/responses", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "store"
    wide = {**body, "input": "\u20ac" * 3_000_000}
    answer = raw.post("/responses", content=json.dumps(wide, ensure_ascii=False).encode())
    assert answer.json()["error"]["param"] == "store", "bytes are counted, not characters"
    del body["store"]
    answer = raw.post("/responses", content=json.dumps(body).encode())
    assert answer.status_code == 200
    response = answer.json()
    assert response["store"] is False
    assert raw.get(f"/responses/{response['id']}").status_code == 404
