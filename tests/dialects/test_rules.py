"""What `templates.dialects.scanning` promises, case by case, over every way of cutting."""

from __future__ import annotations

import pytest

from templates.conversation import Tool, ToolCall
from templates.dialects import DIALECTS, dialect
from templates.format import (
    ContentDelta,
    Delta,
    FormatError,
    ToolArgumentsDelta,
    ToolCallStart,
    ToolChoice,
    ToolChoiceMode,
)
from tests.dialects.streams import folded, run, splits
from tests.dialects.test_streaming import CALL_SETS, TOOLS


def events(name: str, text: str) -> list[Delta]:
    whole = run(dialect(name).parser(TOOLS), [text])
    for pieces in splits(text, rounds=8):
        assert run(dialect(name).parser(TOOLS), pieces) == whole, pieces
    return whole


def call(
    arguments: str, name: str = "add", index: int = 0, call_id: str | None = None
) -> list[Delta]:
    return [ToolCallStart(index, name, call_id), ToolArgumentsDelta(index, arguments)]


Q = '<tool_call>\n{"name": "add", "arguments": {"xs": [1]}}\n</tool_call>'
XS = '{"xs": [1]}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  two lines \n ", [ContentDelta("  two lines \n ")]),
        (f"Let me.\n{Q}\n", [ContentDelta("Let me."), *call(XS)]),
        (f"Let me. \n\n{Q}\n \n", [ContentDelta("Let me. \n"), *call(XS)]),
        (f"Let me. {Q}", [ContentDelta("Let me. "), *call(XS)]),
        (f"\n {Q}\n\n Done. ", [*call(XS), ContentDelta("\n Done. ")]),
        (f"{Q}  Done.", [*call(XS), ContentDelta("  Done.")]),
        (f"{Q}\n<tool_call> no", [*call(XS), ContentDelta("<tool_call> no")]),
        (f"{Q}\n<tool", [*call(XS), ContentDelta("<tool")]),
        ("a\n\n <tool_call> no", [ContentDelta("a\n\n <tool_call> no")]),
        (f"{Q}\n{Q}", [*call(XS), *call(XS, index=1)]),
        (f"{Q} and {Q}", [*call(XS), ContentDelta(" and "), *call(XS, index=1)]),
        ("a < b <tool", [ContentDelta("a < b <tool")]),
        ("<tool_call> is a mark", [ContentDelta("<tool_call> is a mark")]),
        ('<tool_call>{"name": 5}', [ContentDelta('<tool_call>{"name": 5}')]),
        ("<tool_call>\n{'name'", [ContentDelta("<tool_call>\n{'name'")]),
        (f"<tool_call><tool_call>{Q}", [ContentDelta("<tool_call><tool_call>"), *call(XS)]),
        # Cut off: before its arguments a call is content, later it stays with what it has.
        (Q[:30], [ContentDelta(Q[:30])]),
        (Q[: Q.index(']')], call('{"xs": [1')),
        (Q[:-4], call(XS)),
        # Broken or short of marks, but begun.
        ('<tool_call>{"name":"add","arguments":{"xs": [1}}</tool_call>',
         [*call('{"xs": [1'), ContentDelta("}}</tool_call>")]),
        ('<tool_call>{"name": "add", "arguments": {"xs": [1]}\n</tool_call>ok',
         [*call(XS), ContentDelta("ok")]),
        (Q.replace("</tool_call>", "ok"), [*call(XS), ContentDelta("ok")]),
        # Other orders and spellings of the same call.
        ('<tool_call>{"arguments": {"xs": [1]}, "name": "add"}</tool_call>', call(XS)),
        ('<tool_call>{"id": "c1", "name": "add", "arguments": {"xs": [1]}}</tool_call>',
         call(XS, call_id="c1")),
        ('<tool_call>{"name": "add", "arguments": "{\\"xs\\": [1]}"}</tool_call>', call(XS)),
        ('<tool_call>{"name": "ping"}</tool_call>', call("{}", "ping")),
        ('<tool_call>{"name": "ping", "arguments": null}</tool_call>', call("{}", "ping")),
        ('<tool_call>{"name": "ping", "arguments": 5}</tool_call>',
         [ContentDelta('<tool_call>{"name": "ping", "arguments": 5}</tool_call>')]),
        # A line break inside a string is no JSON; it is escaped.
        ('<tool_call>{"name": "add", "arguments": {"xs": "a\nb"}}</tool_call>',
         call('{"xs": "a\\nb"}')),
        # An unknown tool is the caller's to answer.
        ('<tool_call>{"name": "nope", "arguments": {}}</tool_call>', call("{}", "nope")),
    ],
)  # fmt: skip
def test_marked_calls_in_json(text: str, expected: list[Delta]) -> None:
    assert events("qwen", text) == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("llama3", '{"answer": 1}', [ContentDelta('{"answer": 1}')]),
        ("llama3", '{"name": "nope", "parameters": {}}',
         [ContentDelta('{"name": "nope", "parameters": {}}')]),
        ("llama3", f'{{"name": "add", "parameters": {XS}}}; {{"name": "ping", "parameters": {{}}}}',
         [*call(XS), *call("{}", "ping", 1)]),
        ("llama3", f'<|python_tag|>{{"name": "add", "parameters": {XS}}}', call(XS)),
        ("llama3", f'Sure: {{"name": "add", "parameters": {XS}}}',
         [ContentDelta(f'Sure: {{"name": "add", "parameters": {XS}}}')]),
        ("llama_pythonic", "[1, 2]", [ContentDelta("[1, 2]")]),
        ("llama_pythonic", "[nope()]", [ContentDelta("[nope()]")]),
        ("llama_pythonic", "[add(xs=[1]), ping()]", [*call(XS), *call("{}", "ping", 1)]),
        ("lfm2", "<|tool_call_start|>[add(xs=(.5, 0x10, True, None, 'a\\x41\\n', {'k': 1_0}))]",
         call('{"xs": [0.5, 16, true, null, "a\\u0041\\n", {"k": 10}]}')),
        ("lfm2", "<|tool_call_start|>[add(5)]<|tool_call_end|>",
         [ContentDelta("<|tool_call_start|>[add(5)]<|tool_call_end|>")]),
        ("glm4", f"add\n{XS}", call(XS)),
        ("glm4", "add up", [ContentDelta("add up")]),
        ("glm4_moe", "<tool_call>ping</tool_call>", call("{}", "ping")),
        ("glm4_moe", "<tool_call>get_weather<arg_key>days</arg_key><arg_value>2</arg_value>"
         "<arg_key>city</arg_key><arg_value>2</arg_value></tool_call>",
         call('{"days": 2, "city": "2"}', "get_weather")),
        ("qwen3_5", "<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>",
         call('{"city": "Oslo"}', "get_weather")),
        ("qwen3_5", "<tool_call>\n<function=get_weather>\n<parameter=city>\nOs</para",
         call('{"city": "Os</para', "get_weather")),
        ("qwen3_5", "<tool_call>\n<function=get_weather>\n<parameter=notes>\nnull\n</parameter>\n"
         "<parameter=unit>\n celsius \n</parameter>\n</function>\n</tool_call>",
         call('{"notes": null, "unit": "celsius"}', "get_weather")),
        ("mistral_v11", f"[TOOL_CALLS]add[CALL_ID]abc123DEF[ARGS]{XS}",
         call(XS, call_id="abc123DEF")),
        ("kimi_k2", "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:7"
         f"<|tool_call_argument_begin|>{XS}<|tool_call_end|><|tool_calls_section_end|>",
         call(XS, call_id="functions.add:7")),
        ("deepseek_v3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n"
         f"```json\n{XS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>", call(XS)),
        ("gemma4", '<|tool_call>call:get_weather{city:<|"|>a "b"<|"|>,'
         "where:{at:[1,{b:true}]}}<tool_call|>",
         call('{"city": "a \\"b\\"", "where": {"at": [1, {"b": true}]}}', "get_weather")),
        ("default", f"Thought: add.\nAction: add\nAction Input: {XS}",
         [ContentDelta("Thought: add."), *call(XS)]),
        ("default", "Action: think about it", [ContentDelta("Action: think about it")]),
        ("default", f"Action: add\nAction Input: ```json\n{XS}\n```\n", call(XS)),
        ("kimi_k2", "<|tool_call_section_begin|><|tool_call_begin|>functions.add:0"
         f"<|tool_call_argument_begin|>{XS}<|tool_call_end|><|tool_call_section_end|>",
         call(XS, call_id="functions.add:0")),
        ("cohere_command", "<|START_RESPONSE|>a <b> c<|END_RESPONSE|>", [ContentDelta("a <b> c")]),
        ("llama3", f'<|python_start|><|python_end|>{{"name": "add", "parameters": {XS}}}',
         call(XS)),
        ("granite3", f'<|tool_call|><tool_call>[{{"name": "add", "arguments": {XS}}}]', call(XS)),
    ],
)  # fmt: skip
def test_other_dialects(name: str, text: str, expected: list[Delta]) -> None:
    assert events(name, text) == expected


@pytest.mark.parametrize("name", DIALECTS)
def test_arguments_stream_before_the_call_ends(name: str) -> None:
    text = dialect(name).native_text(CALL_SETS["nasty"])
    parser = dialect(name).parser(TOOLS)
    at_start = text.index("line,")
    early = [event for char in text[:at_start] for event in parser.feed(char)]
    assert folded(early).calls[0].name == "get_weather"
    assert "quote" in folded(early).calls[0].arguments


@pytest.mark.parametrize("name", DIALECTS)
def test_plain_text_is_not_held(name: str) -> None:
    parser = dialect(name).parser(TOOLS)
    for piece in ("Hello", " there", ", you", " two."):
        assert list(parser.feed(piece)) == [ContentDelta(piece)]


@pytest.mark.parametrize("name", DIALECTS)
def test_history_that_is_no_json_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="not a JSON object"):
        dialect(name).call_text((ToolCall("add", '{"xs": [1'),))
    text = dialect(name).call_text((ToolCall("ping", ""),))
    [read] = folded(run(dialect(name).parser(TOOLS), [text])).calls
    assert (read.name, read.arguments) == ("ping", "{}")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(FormatError, match="no tool-call dialect"):
        dialect("nope")
    with pytest.raises(FormatError, match="no tool named 'nope'") as raised:
        dialect("qwen").constrain(TOOLS, ToolChoice(ToolChoiceMode.REQUIRED, ("nope",)), None)
    assert raised.value.param == "tool_choice"
    with pytest.raises(FormatError, match="there are no tools"):
        dialect("qwen").constrain((), ToolChoice(ToolChoiceMode.REQUIRED), None)


def test_what_gemma_cannot_hold_to_a_schema_is_refused() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "[ab]+"}}}
    with pytest.raises(FormatError, match="'pattern'") as raised:
        dialect("gemma4").constrain(
            (Tool("f", None, schema),), ToolChoice(ToolChoiceMode.REQUIRED), None
        )
    assert raised.value.param == "tools"


def test_marks_around_plain_answers_are_taken_away_without_tools_too() -> None:
    parser = dialect("cohere_command").parser(())
    said = "<|START_RESPONSE|>Write <|START_ACTION|>.<|END_RESPONSE|>"
    assert run(parser, [said]) == [ContentDelta("Write <|START_ACTION|>.")]
