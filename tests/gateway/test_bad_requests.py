"""Wrong bodies: the right status, code and param each time, and never a 500."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.gateway.conftest import KEY, MODEL, Gateway, user
from tests.gateway.raw import post, refusal

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": user("say hello"), **fields}


def spoken(*messages: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": list(messages)}


BAD: list[tuple[str, Any, str, str | None]] = [
    ("unknown field", chat(foo=1), "unknown_parameter", "foo"),
    ("no model", {"messages": user("x")}, "missing_required_parameter", "model"),
    ("no messages", {"model": MODEL}, "missing_required_parameter", "messages"),
    ("empty messages", spoken(), "empty_array", "messages"),
    ("messages a string", {"model": MODEL, "messages": "hi"}, "invalid_type", "messages"),
    ("model a number", {"model": 5, "messages": user("x")}, "invalid_type", "model"),
    ("body an array", [1], "invalid_type", None),
    ("temperature high", chat(temperature=2.5), "decimal_above_max_value", "temperature"),
    ("temperature low", chat(temperature=-0.5), "decimal_below_min_value", "temperature"),
    ("temperature text", chat(temperature="hot"), "invalid_type", "temperature"),
    ("top_p high", chat(top_p=1.5), "decimal_above_max_value", "top_p"),
    ("n zero", chat(n=0), "integer_below_min_value", "n"),
    ("n high", chat(n=129), "integer_above_max_value", "n"),
    ("n a fraction", chat(n=1.5), "invalid_type", "n"),
    ("n true", chat(n=True), "invalid_type", "n"),
    ("max zero", chat(max_completion_tokens=0), "integer_below_min_value", "max_completion_tokens"),
    ("both max", chat(max_tokens=1, max_completion_tokens=1), "invalid_value", "max_tokens"),
    ("five stops", chat(stop=list("abcde")), "array_above_max_length", "stop"),
    ("stop a number", chat(stop=5), "invalid_type", "stop"),
    ("empty stop", chat(stop=""), "empty_string", "stop"),
    ("penalty", chat(presence_penalty=3), "decimal_above_max_value", "presence_penalty"),
    ("bias key", chat(logit_bias={"hello": 1}), "invalid_value", "logit_bias"),
    ("bias value", chat(logit_bias={"5": 101}), "decimal_above_max_value", "logit_bias.5"),
    ("bias out of vocabulary", chat(logit_bias={"99999999": 1}), "invalid_value", "logit_bias"),
    ("top_logprobs alone", chat(top_logprobs=3), "invalid_value", "top_logprobs"),
    ("top_logprobs high", chat(logprobs=True, top_logprobs=21), "integer_above_max_value",
     "top_logprobs"),
    ("stream_options alone", chat(stream_options={"include_usage": True}), "invalid_value",
     "stream_options"),
    ("stream option", chat(stream=True, stream_options={"x": 1}), "unknown_parameter",
     "stream_options.x"),
    ("tool without name", chat(tools=[{"type": "function", "function": {}}]),
     "missing_required_parameter", "tools[0].function.name"),
    ("tool of no kind", chat(tools=[{"function": {"name": "f"}}]),
     "missing_required_parameter", "tools[0].type"),
    ("tool of another kind", chat(tools=[{"type": "web"}]), "invalid_value", "tools[0].type"),
    ("tool name", chat(tools=[{"type": "function", "function": {"name": "a b"}}]),
     "invalid_value", "tools[0].function.name"),
    ("tool parameters", chat(tools=[{"type": "function", "function":
     {"name": "f", "parameters": {"type": "array"}}}]),
     "invalid_function_parameters", "tools[0].function.parameters"),
    ("custom tool", chat(tools=[{"type": "custom", "custom": {"name": "c"}}]),
     "unsupported_value", "tools[0].type"),
    ("129 tools", chat(tools=[TOOL] * 129), "array_above_max_length", "tools"),
    ("choice without tools", chat(tool_choice="auto"), "invalid_value", "tool_choice"),
    ("choice unknown", chat(tools=[TOOL], tool_choice={"type": "function",
     "function": {"name": "g"}}), "invalid_value", "tool_choice.function.name"),
    ("choice word", chat(tools=[TOOL], tool_choice="maybe"), "invalid_value", "tool_choice"),
    ("schema without name", chat(response_format={"type": "json_schema",
     "json_schema": {"schema": {}}}), "missing_required_parameter",
     "response_format.json_schema.name"),
    ("format of no kind", chat(response_format={"type": "xml"}), "invalid_value",
     "response_format.type"),
    ("audio", chat(modalities=["text", "audio"]), "unsupported_value", "modalities"),
    ("audio voice", chat(audio={"voice": "a"}), "unsupported_parameter", "audio"),
    ("search", chat(web_search_options={}), "unsupported_parameter", "web_search_options"),
    ("verbosity", chat(verbosity="low"), "unsupported_value", "verbosity"),
    ("effort", chat(reasoning_effort="huge"), "invalid_value", "reasoning_effort"),
    ("metadata value", chat(metadata={"a": 5}), "invalid_type", "metadata.a"),
    ("metadata long", chat(metadata={"a": "x" * 513}), "string_above_max_length", "metadata.a"),
    ("safety id", chat(safety_identifier="x" * 65), "string_above_max_length",
     "safety_identifier"),
    ("role", spoken({"role": "wizard", "content": "x"}), "invalid_value", "messages[0].role"),
    ("no role", spoken({"content": "x"}), "missing_required_parameter", "messages[0].role"),
    ("no content", spoken({"role": "user"}), "missing_required_parameter",
     "messages[0].content"),
    ("content a number", spoken({"role": "user", "content": 5}), "invalid_type",
     "messages[0].content"),
    ("content null", spoken({"role": "user", "content": None}), "invalid_type",
     "messages[0].content"),
    ("part without text", spoken({"role": "user", "content": [{"type": "text"}]}),
     "missing_required_parameter", "messages[0].content[0].text"),
    ("part kind", spoken({"role": "user", "content": [{"type": "smell"}]}), "invalid_value",
     "messages[0].content[0].type"),
    ("picture", spoken({"role": "user", "content": [{"type": "text", "text": "a"},
     {"type": "image_url", "image_url": {"url": "data:,"}}]}), "unsupported_value",
     "messages[0].content[1]"),
    ("sound", spoken({"role": "user", "content": [
     {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]}),
     "unsupported_value", "messages[0].content[0]"),
    ("file", spoken(*user("x"), {"role": "user", "content": [
     {"type": "file", "file": {"file_id": "file-1"}}]}), "unsupported_value",
     "messages[1].content[0]"),
    ("assistant first", spoken({"role": "assistant", "content": "x"}), "invalid_value",
     "messages[0].role"),
    ("bad guided schema", chat(guided_json="{"), "invalid_value", "guided_json"),
    ("message field", spoken({"role": "user", "content": "x", "weight": 1}),
     "unknown_parameter", "messages[0].weight"),
    ("empty assistant", spoken({"role": "assistant"}), "invalid_type", "messages[0].content"),
    ("arguments an object", spoken({"role": "assistant", "tool_calls": [
     {**CALL, "function": {"name": "f", "arguments": {}}}]}), "invalid_type",
     "messages[0].tool_calls[0].function.arguments"),
    ("unanswered call", spoken({"role": "assistant", "tool_calls": [CALL]},
     {"role": "user", "content": "x"}), "invalid_value", "messages[0]"),
    ("tool out of place", spoken({"role": "tool", "tool_call_id": "c", "content": "x"}),
     "invalid_value", "messages[0].role"),
    ("tool of another call", spoken({"role": "assistant", "tool_calls": [CALL]},
     {"role": "tool", "tool_call_id": "other", "content": "x"}), "invalid_value",
     "messages[1].tool_call_id"),
    ("function_call alone", chat(function_call="auto"), "invalid_value", "function_call"),
    ("two guides", chat(guided_regex="a", guided_choice=["a"]), "invalid_value",
     "guided_choice"),
    ("bad grammar", spoken(*user("bad grammar")) | {"guided_regex": "("}, "invalid_value",
     "guided_regex"),
    ("continue a user", chat(continue_final_message=True), "invalid_value",
     "continue_final_message"),
    ("no generation prompt", chat(add_generation_prompt=False), "unsupported_value",
     "add_generation_prompt"),
    ("thinking", chat(chat_template_kwargs={"enable_thinking": "yes"}), "invalid_type",
     "chat_template_kwargs.enable_thinking"),
    ("template variable", chat(chat_template_kwargs={"foo": 1}), "unsupported_value",
     "chat_template_kwargs"),
    ("documents", chat(documents=[{"text": "x"}]), "unsupported_value", "documents"),
    ("stop token", chat(stop_token_ids=[-1]), "invalid_value", "stop_token_ids"),
    ("refused by the engine", spoken(*user("refuse me")), "context_length_exceeded", "messages"),
    ("streamed and refused", chat(stream=True) | {"messages": user("refuse me")},
     "context_length_exceeded", "messages"),
    ("seed", chat(seed=2**64), "integer_above_max_value", "seed"),
    ("max no engine can count", chat(max_tokens=10**30), "integer_above_max_value", "max_tokens"),
    ("top_k no engine can count", chat(top_k=10**30), "integer_above_max_value", "top_k"),
    ("bias key of many digits", chat(logit_bias={"9" * 5000: 1}), "invalid_value", "logit_bias"),
    ("field beside a function", chat(tools=[TOOL | {"x": 1}]), "unknown_parameter", "tools[0].x"),
    ("field in a function", chat(tools=[{"type": "function", "function": {"name": "f", "x": 1}}]),
     "unknown_parameter", "tools[0].function.x"),
    ("field beside a choice", chat(tools=[TOOL], tool_choice={**TOOL, "x": 1}),
     "unknown_parameter", "tool_choice.x"),
    ("choice of no kind", chat(tools=[TOOL], tool_choice={"type": "fn"}), "invalid_value",
     "tool_choice.type"),
    ("choice a number", chat(tools=[TOOL], tool_choice=5), "invalid_type", "tool_choice"),
    ("properties a list", chat(tools=[{"type": "function", "function": {"name": "f",
     "parameters": {"type": "object", "properties": []}}}]),
     "invalid_function_parameters", "tools[0].function.parameters"),
    ("functions of one name", chat(functions=[{"name": "f"}, {"name": "f"}]), "invalid_value",
     "functions[1].name"),
    ("function of an array", chat(functions=[{"name": "f", "parameters": {"type": "array"}}]),
     "invalid_function_parameters", "functions[0].parameters"),
    ("past arguments", spoken(*user("x"), {"role": "assistant", "tool_calls": [
     {**CALL, "function": {"name": "f", "arguments": "{"}}]},
     {"role": "tool", "tool_call_id": "call_1", "content": "x"}), "invalid_value",
     "messages[1].tool_calls[0].function.arguments"),
    ("17 pairs", chat(metadata={str(i): "x" for i in range(17)}), "object_above_max_properties",
     "metadata"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "code", "param"), [c[1:] for c in BAD], ids=[c[0] for c in BAD])
def test_a_bad_chat_request(gateway: Gateway, body: Any, code: str, param: str | None) -> None:
    refused = refusal(gateway, CHAT, body)
    assert (refused.status, refused.code, refused.param) == (400, code, param), refused.message
    assert refused.type == "invalid_request_error"


BAD_TEXT: list[tuple[str, Any, str, str | None]] = [
    ("no prompt", {"model": MODEL}, "missing_required_parameter", "prompt"),
    ("prompt an object", {"model": MODEL, "prompt": {}}, "invalid_type", "prompt"),
    ("empty batch", {"model": MODEL, "prompt": []}, "empty_array", "prompt"),
    ("logprobs", {"model": MODEL, "prompt": "x", "logprobs": 6}, "integer_above_max_value",
     "logprobs"),
    ("suffix", {"model": MODEL, "prompt": "x", "suffix": "y"}, "unsupported_parameter", "suffix"),
    ("best_of", {"model": MODEL, "prompt": "x", "best_of": 1, "n": 2}, "invalid_value", "best_of"),
    ("best_of streamed", {"model": MODEL, "prompt": "x", "best_of": 2, "stream": True},
     "invalid_value", "best_of"),
    ("unknown", {"model": MODEL, "prompt": "x", "messages": []}, "unknown_parameter", "messages"),
    ("no such token", {"model": MODEL, "prompt": [2**30]}, "invalid_value", "prompt"),
    ("too long", {"model": MODEL, "prompt": "refuse me"}, "context_length_exceeded", "prompt"),
    ("no number for a token", {"model": MODEL, "prompt": [10**30]}, "integer_above_max_value",
     "prompt[0]"),
    ("2049 prompts", {"model": MODEL, "prompt": ["x"] * 2049}, "array_above_max_length", "prompt"),
    ("2049 token prompts", {"model": MODEL, "prompt": [[1]] * 2049}, "array_above_max_length",
     "prompt"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "code", "param"), [c[1:] for c in BAD_TEXT], ids=[c[0] for c in BAD_TEXT]
)
def test_a_bad_completion_request(
    gateway: Gateway, body: Any, code: str, param: str | None
) -> None:
    refused = refusal(gateway, TEXT, body)
    assert (refused.status, refused.code, refused.param) == (400, code, param), refused.message


NOT_JSON = [
    b"",
    b"{",
    b"\xff\xfe",
    b"{'model': 1}",
    b'{"model": "\xff"}',
    b'{"model": "m", "messages": [], "temperature": NaN}',
    b'{"model": "m", "metadata": {"a": -Infinity}}',
]


@pytest.mark.parametrize("body", NOT_JSON)
def test_what_is_not_json(gateway: Gateway, body: bytes) -> None:
    refused = refusal(gateway, CHAT, body)
    assert refused.status == 400
    assert refused.message.startswith("We could not parse the JSON body of your request.")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[" * 100_000, "nested more than 200 levels deep, at line 1 column 202."),
        (b'{"seed": ' + b"9" * 5000 + b"}", "a number has more than 4,300 digits, at line 1"),
        (b'{"model": "\\ud83d"}', "a string holds half of a surrogate pair, at line 1"),
    ],
)
def test_json_beyond_what_is_taken_is_told_by_name(
    gateway: Gateway, body: bytes, said: str
) -> None:
    refused = refusal(gateway, CHAT, body)
    assert (refused.status, refused.code) == (400, "invalid_json")
    assert said in refused.message


def test_text_that_looks_like_a_number_that_is_none(client: openai.OpenAI) -> None:
    client.chat.completions.create(model=MODEL, messages=user("say hello NaN Infinity"))


def test_top_p_may_be_zero(client: openai.OpenAI) -> None:
    client.chat.completions.create(model=MODEL, messages=user("say hello"), top_p=0)


def test_a_method_that_a_path_does_not_have(gateway: Gateway) -> None:
    response = httpx.put(
        f"{gateway.url}/v1/models", headers={"authorization": f"Bearer {KEY}"}, timeout=20
    )
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD"
    assert response.json()["error"]["code"] == "method_not_supported"


def test_message_forms(gateway: Gateway) -> None:
    assert refusal(gateway, CHAT, chat(seed=2**64)).message == (
        f"Invalid 'seed': integer above maximum value. Expected a value <= {2**63 - 1}, "
        f"but got {2**64} instead."
    )
    assert refusal(gateway, CHAT, chat(foo=1)).message == "Unknown parameter: 'foo'."
    assert refusal(gateway, CHAT, chat(n=300)).message == (
        "Invalid 'n': integer above maximum value. Expected a value <= 128, but got 300 instead."
    )
    assert refusal(gateway, CHAT, chat(temperature="x")).message == (
        "Invalid type for 'temperature': expected a decimal, but got a string instead."
    )
    assert refusal(gateway, CHAT, spoken({"role": "user", "content": 5})).message == (
        "Invalid type for 'messages[0].content': expected one of a string or an array, "
        "but got an integer instead."
    )


@pytest.mark.parametrize("key", [None, "x", "sk-wrong-key-0123456789", "ключ"])
def test_a_wrong_key(gateway: Gateway, key: str | None) -> None:
    headers = {} if key is None else {"authorization": f"Bearer {key}".encode()}
    response = httpx.post(f"{gateway.url}{CHAT}", json=chat(), headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="OpenAI API"'
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert "wrong-key" not in response.text


def test_an_unknown_model(gateway: Gateway) -> None:
    refused = refusal(gateway, CHAT, {"model": "nope", "messages": user("x")})
    assert (refused.status, refused.code, refused.param) == (404, "model_not_found", "model")


def test_a_model_without_an_engine(gateway: Gateway) -> None:
    response = post(gateway, CHAT, {"model": "asleep", "messages": user("x")})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "server_is_overloaded"
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(("text", "status"), [("out of memory", 503), ("full queue", 503)])
def test_a_refusal_that_may_be_retried(gateway: Gateway, text: str, status: int) -> None:
    response = post(gateway, CHAT, spoken(*user(text)))
    assert response.status_code == status
    assert int(response.headers["retry-after"]) >= 1


def test_an_internal_error_keeps_its_details(gateway: Gateway) -> None:
    response = post(gateway, CHAT, spoken(*user("break later")))
    assert response.status_code == 500
    assert "secret detail" not in response.text
    assert response.json()["error"]["type"] == "server_error"


def test_unknown_paths_and_methods(gateway: Gateway) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    missing = httpx.get(f"{gateway.url}/v1/nothing", headers=headers)
    assert missing.status_code == 404
    assert missing.json()["error"]["message"] == "Invalid URL (GET /v1/nothing)"
    wrong = httpx.delete(f"{gateway.url}{CHAT}", headers=headers)
    assert wrong.status_code == 405
    assert wrong.json()["error"]["type"] == "invalid_request_error"
