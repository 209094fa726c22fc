"""Every parser, over every way of cutting its outputs."""

from __future__ import annotations

import json

import pytest

from templates.conversation import Tool, ToolCall
from templates.dialects import DIALECTS, dialect
from templates.format import ContentDelta
from tests.dialects.streams import folded, run, splits

TOOLS = (
    Tool(
        "get_weather",
        "Get the current weather",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer"},
                "where": {"type": "object"},
                "notes": {"type": ["string", "null"]},
            },
        },
        strict=False,
    ),
    Tool("add", None, {"type": "object", "properties": {"xs": {"type": "array"}}}),
    Tool("ping"),
)
NASTY = (
    "quote \" back\\slash \n line, {brace} [bracket] <tag> </tool_call> é北京 \u2028 ) ' \t "
    "</parameter </arg_value <|x|>"
)


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False))


CALL_SETS = {
    "one": (call("get_weather", city="北京", unit="celsius", days=2),),
    "none_given": (call("ping"),),
    "nested": (
        call("get_weather", city="x", where={"at": [1, {"deep": None}], "ok": True}, notes=None),
    ),
    "nasty": (call("get_weather", city=NASTY, days=-3),),
    "empty_strings": (call("get_weather", city="", notes=" "),),
    "three": (call("get_weather", city="a"), call("add", xs=[1, 2.5, -3e-5]), call("ping")),
}


def as_read(calls: tuple[ToolCall, ...]) -> list[tuple[str, object]]:
    return [(c.name, json.loads(c.arguments)) for c in calls]


def sets_of(name: str) -> list[str]:
    return [k for k, calls in CALL_SETS.items() if dialect(name).layout.parallel or len(calls) == 1]


CASES = [(name, key) for name in DIALECTS for key in sets_of(name)]


@pytest.mark.parametrize(("name", "key"), CASES)
def test_calls_read_back_whichever_way_they_are_cut(name: str, key: str) -> None:
    calls = CALL_SETS[key]
    text = dialect(name).call_text(calls)
    whole = run(dialect(name).parser(TOOLS), [text])
    answer = folded(whole)
    assert as_read(answer.calls) == as_read(calls)
    assert answer.content == ""
    for pieces in splits(text):
        assert run(dialect(name).parser(TOOLS), pieces) == whole, pieces


@pytest.mark.parametrize("name", DIALECTS)
def test_without_tools_everything_is_content(name: str) -> None:
    text = dialect(name).call_text(CALL_SETS["one"])
    assert run(dialect(name).parser(()), list(text)) == [ContentDelta(text)]


@pytest.mark.parametrize("name", DIALECTS)
def test_cut_off_outputs_lose_and_double_nothing(name: str) -> None:
    text = dialect(name).call_text(CALL_SETS["one"])
    for end in range(len(text)):
        events = run(dialect(name).parser(TOOLS), [text[:end]])
        answer = folded(events)
        assert len(answer.calls) <= 1
        if not answer.calls:
            assert answer.content == text[:end]
        assert run(dialect(name).parser(TOOLS), list(text[:end])) == events


@pytest.mark.parametrize(("name", "key"), CASES)
def test_a_call_cut_by_the_length_shows_no_mark(name: str, key: str) -> None:
    """Whatever of the call is there is in the call."""
    entry = dialect(name)
    for text in (entry.call_text(CALL_SETS[key]), entry.native_text(CALL_SETS[key])):
        whole = folded(run(entry.parser(TOOLS), [text]))
        for end in range(len(text)):
            events = run(entry.parser(TOOLS), [text[:end]], cut=True)
            answer = folded(events)
            assert answer.content.strip() == "", text[:end]
            for read, full in zip(answer.calls, whole.calls, strict=False):
                assert read.name == full.name
                assert full.arguments.startswith(read.arguments), text[:end]
            assert run(entry.parser(TOOLS), list(text[:end]), cut=True) == events


@pytest.mark.parametrize("name", [name for name, entry in DIALECTS.items() if entry.layout.trigger])
def test_a_text_before_a_call_that_was_cut_stays(name: str) -> None:
    entry = dialect(name)
    text = "Let me see.  \n\n" + entry.native_text(CALL_SETS["one"])
    for end in range(len("Let me see."), len(text)):
        answer = folded(run(entry.parser(TOOLS), [text[:end]], cut=True))
        assert answer.content.rstrip() == "Let me see."
        assert run(entry.parser(TOOLS), list(text[:end]), cut=True) == run(
            entry.parser(TOOLS), [text[:end]], cut=True
        )


@pytest.mark.parametrize("name", DIALECTS)
def test_a_plain_text_cut_by_the_length_is_whole(name: str) -> None:
    text = 'Half of a plan, say "A": {1, 2}\nand (all) of it, if\n\n'
    for end in range(len(text)):
        events = run(dialect(name).parser(TOOLS), [text[:end]], cut=True)
        assert folded(events).content == text[:end]


@pytest.mark.parametrize("name", [name for name, entry in DIALECTS.items() if entry.layout.trigger])
def test_text_around_calls_keeps_its_blanks(name: str) -> None:
    entry = dialect(name)
    calls = entry.native_text(CALL_SETS["one"])
    for before in ("Look. ", "Look.  \t", " \n Look", "Look.\n "):
        answer = folded(run(entry.parser(TOOLS), [f"{before}\n{calls}\n"]))
        assert answer.content == before
    for after in ("  Done. \n", "\tDone.", "\n Done.\n\n"):
        text = f"{calls}\n{after}"
        events = run(entry.parser(TOOLS), [text])
        assert folded(events).content == after
        for pieces in splits(text, rounds=4):
            assert run(entry.parser(TOOLS), pieces) == events
