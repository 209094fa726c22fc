"""Rows of training files: what is read of them, and the words for what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from templates.conversation import MediaKind, MediaPart, Role, TextPart, Tool, ToolCall
from templates.example_fields import ExampleError
from templates.examples import ChatExample, CompletionExample, TextExample, read_example

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f"}}


def calling(**call: Any) -> dict[str, Any]:
    message = {"role": "assistant", "tool_calls": [{**CALL, **call}]}
    return {"messages": [USER, message], "tools": [TOOL]}


def answering(**answer: Any) -> dict[str, Any]:
    return {"messages": [USER, {**ANSWER, **answer}]}


RESULT = {"role": "tool", "tool_call_id": "1", "content": "42"}
OLD_RESULT = {"role": "function", "name": "f", "content": "42"}


def resulting(*results: dict[str, Any]) -> dict[str, Any]:
    """A call, what is said to it, and an answer."""
    row = calling()
    return {**row, "messages": [*row["messages"], *results, ANSWER]}


def test_a_chat_with_tools_is_read() -> None:
    row = {
        "messages": [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "ann"},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 0},
            {"role": "tool", "content": "42", "tool_call_id": "1"},
            {"role": "assistant", "content": "It is 42.", "weight": 1, "refusal": None},
        ],
        "tools": [TOOL],
        "parallel_tool_calls": False,
    }
    example = read_example(json.dumps(row))
    assert isinstance(example, ChatExample)
    developer, user, call, result, answer = example.conversation.messages
    assert (developer.role, developer.text) == (Role.DEVELOPER, "Be kind.")
    assert (user.parts, user.name) == ((TextPart("hi"),), "ann")
    assert (call.parts, call.tool_calls, call.weight) == ((), (ToolCall("f", "{}", "1"),), 0)
    assert (result.role, result.tool_call_id) == (Role.TOOL, "1")
    assert (answer.weight, answer.text) == (1, "It is 42.")
    assert example.conversation.tools == (Tool("f"),)


def test_the_deprecated_function_fields_are_read_as_tools() -> None:
    row = {
        "messages": [
            USER,
            {"role": "assistant", "function_call": {"name": "f", "arguments": '{"a": 1}'}},
            {"role": "function", "name": "f", "content": "42"},
            ANSWER,
        ],
        "functions": [{"name": "f", "parameters": {"type": "object"}}],
    }
    example = read_example(json.dumps(row))
    assert isinstance(example, ChatExample)
    assert example.conversation.messages[1].tool_calls == (ToolCall("f", '{"a": 1}'),)
    assert example.conversation.messages[2].role is Role.TOOL
    assert example.conversation.tools[0].parameters == {"type": "object"}


def test_pictures_are_read_from_users_only() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    example = read_example(json.dumps({"messages": [{"role": "user", "content": [part]}, ANSWER]}))
    assert isinstance(example, ChatExample)
    (picture,) = example.conversation.messages[0].parts
    assert picture == MediaPart(MediaKind.IMAGE, "data:image/png;base64,AA==")
    with pytest.raises(ExampleError, match="message 2 content part 1"):
        read_example(json.dumps(answering(content=[part])))


def test_arguments_encoded_twice_are_unwrapped() -> None:
    example = read_example(
        json.dumps(calling(function={"name": "f", "arguments": '"{\\"a\\": 1}"'}))
    )
    assert isinstance(example, ChatExample)
    assert example.conversation.messages[1].tool_calls == (ToolCall("f", '{"a": 1}', "1"),)
    assert example.notes.unwrapped_arguments


def test_reasoning_is_read_under_both_of_its_names() -> None:
    for field in ("reasoning", "reasoning_content"):
        example = read_example(json.dumps(answering(**{field: "hm"})))
        assert isinstance(example, ChatExample)
        assert example.conversation.messages[1].reasoning == "hm"


def test_completions_and_text_are_read() -> None:
    assert read_example('{"prompt": "", "completion": "b"}') == CompletionExample("", "b")
    assert read_example('{"text": "a"}', pretraining=True) == TextExample("a")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line contains invalid json"),
        (b'{"text": "\xff"}', "not valid UTF-8"),
        ('{"text": NaN}', "NaN is not a JSON value"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "Unexpected file format"),
        ({"question": "a"}, "Unexpected file format"),
        ('{"prompt": "\\ud800", "completion": "a"}', "unpaired surrogate"),
        ({"text": ""}, "'text' is empty"),
        ('{"a": %s}' % ("9" * 5000), "an integer has too many digits"),
        ({"prompt": "a"}, "'completion' must be a string"),
        ({"prompt": "a", "completion": ""}, "'completion' is empty"),
        ({"messages": "hi"}, "'messages' must be a non-empty array"),
        ({"messages": []}, "'messages' must be a non-empty array"),
        ({"messages": ["hi"]}, "message 1 a message must be an object"),
        ({"messages": [USER, {"content": "x"}]}, "message 2 Discriminator 'role' is missing"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "message 1 'role' must be one of"),
        ({"messages": [USER]}, "at least one assistant message with weight 1"),
        (answering(weight=0), "at least one assistant message with weight 1"),
        (answering(weight=0.5), "message 2 'weight' must be 0 or 1"),
        (answering(weight=True), "message 2 'weight' must be 0 or 1"),
        (answering(weight=1.0), "message 2 'weight' must be 0 or 1"),
        (answering(refusal="no"), "message 2 has both 'content' and 'refusal'"),
        (answering(reasoning="a", reasoning_content="b"), "'reasoning_content' differ"),
        (answering(content=[{"type": "image", "value": "a"}]), "content part 1 'type'"),
        (answering(loss_weight=0.5), "message 2 'loss_weight' must be 0 or 1"),
        ({"messages": [{**USER, "loss_weight": 1.0}, ANSWER]}, "message 1 'loss_weight' must be 0"),
        ({"messages": [{"from": "human", "value": "a"}]}, "sharegpt's messages have 'from'"),
        ({"messages": [USER, ANSWER, USER]}, "the last message must be from the assistant"),
        ({"messages": [USER, RESULT, ANSWER]}, "message 2 with role 'tool' must be a response"),
        (resulting(RESULT | {"tool_call_id": "2"}), "message 3 'tool_call_id' is no call"),
        (resulting(RESULT, RESULT), "message 4 'tool_call_id' is no call"),
        (resulting(), "message 2 is an assistant message with 'tool_calls', which must be"),
        (resulting(OLD_RESULT), "message 3 with role 'function' must be a response"),
        ({"messages": [USER, OLD_RESULT, ANSWER]}, "message 2 with role 'function' must be"),
        ({**answering(), "tools": [TOOL], "functions": [{"name": "g"}]}, "exclude each other"),
        (
            {"messages": [USER, {**ANSWER, "tool_calls": [CALL], "function_call": {}}]},
            "message 2 has both 'function_call' and 'tool_calls'",
        ),
        ({**answering(), "tools": [TOOL, TOOL]}, "declares two tools of one name"),
        (
            {**answering(), "tools": [{"type": "function", "function": {"name": "a.b"}}]},
            "must be 1 to 64 letters, digits",
        ),
        (answering(content=None), "message 2 an assistant message needs 'content'"),
        (answering(content=7), "message 2 'content' must be a string"),
        (answering(content=[]), "message 2 'content' must be a string"),
        (answering(mood="good"), "message 2 has an unknown field 'mood'"),
        ({"messages": [{**USER, "weight": 1}, ANSWER]}, "message 1 has an unknown field"),
        ({"messages": [USER, {"role": "tool", "content": "x"}, ANSWER]}, "role 'tool' must be"),
        ({**answering(), "tools": {}}, "'tools' must be an array"),
        ({**answering(), "tools": [TOOL] * 129}, "at most 128"),
        ({**answering(), "tools": [{"type": "web"}]}, r"tools\[0\] 'type' must be 'function'"),
        ({**answering(), "parallel_tool_calls": 1}, "'parallel_tool_calls' must be a boolean"),
        ({**calling(), "tools": []}, "message 2 calls a tool that 'tools' does not declare"),
        (calling(function={"name": "f", "arguments": "{"}), "text of a JSON object"),
        (calling(function={"name": "f", "arguments": "[]"}), "text of a JSON object"),
        (calling(function={"name": "f", "arguments": '"[]"'}), "text of a JSON object"),
        (calling(function={"name": "f", "arguments": '"a"'}), "text of a JSON object"),
        (calling(function={"name": "f", "arguments": '{"a": %s}' % ("9" * 5000)}), "many digits"),
        (calling(function={"name": "f", "arguments": '{"a": "\\ud800"}'}), "text of a JSON object"),
        (calling(function={"name": "f", "arguments": []}), "'arguments' must be a string"),
        (calling(type="custom"), "message 2 tool call 1 'type' must be 'function'"),
        (calling(id=1), "message 2 tool call 1 'id' must be a string"),
    ],
)
def test_a_bad_row_is_told_by_place_and_field(row: Any, message: str) -> None:
    line = row if isinstance(row, str | bytes) else json.dumps(row)
    with pytest.raises(ExampleError, match=message):
        read_example(line)
