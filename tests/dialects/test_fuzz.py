"""Random outputs: no exception, the same events however they are cut, nothing lost or doubled."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from templates.conversation import Tool, ToolCall
from templates.dialects import DIALECTS, dialect
from templates.format import ToolCallStart
from templates.reasoning import ReasoningParser, ThinkingWords
from tests.dialects.streams import folded, run
from tests.dialects.test_streaming import CALL_SETS, TOOLS, as_read

QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
MARKED = [name for name, entry in DIALECTS.items() if entry.layout.trigger]
SENTINELS = [f"zq{n}x" for n in range(8)]


def fragments(name: str) -> list[str]:
    """Pieces of the dialect's own texts, and what may break them."""
    texts = [
        writer(calls)
        for calls in CALL_SETS.values()
        for writer in (dialect(name).call_text, dialect(name).native_text)
        if dialect(name).layout.parallel or len(calls) == 1
    ]
    pieces = {piece for text in texts for piece in re.findall(r"\w+|\s+|[^\w\s]+", text)}
    marks = {mark for text in texts for mark in re.findall(r"<[^<>\s]{1,40}>|\[[A-Z_]+\]", text)}
    return [*sorted(pieces | marks | set(texts)), *SENTINELS, "{", "}", "[", "]", '"', "\\", "\n"]


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    at = sorted({cut % (len(text) + 1) for cut in cuts})
    return [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]


@pytest.mark.parametrize("name", DIALECTS)
def test_any_text_is_read_the_same_however_it_is_cut(name: str) -> None:
    parts = st.lists(st.sampled_from(fragments(name)) | st.text(max_size=3), max_size=25)

    @QUICK
    @given(parts, st.lists(st.integers(0, 10_000), max_size=8))
    def check(chosen: list[str], cuts: list[int]) -> None:
        text = "".join(chosen)
        whole = run(dialect(name).parser(TOOLS), [text])
        assert run(dialect(name).parser(TOOLS), pieces_of(text, cuts)) == whole
        assert run(dialect(name).parser(TOOLS), list(text)) == whole
        shortened = run(dialect(name).parser(TOOLS), [text], cut=True)
        assert run(dialect(name).parser(TOOLS), list(text), cut=True) == shortened
        answer = folded(whole)
        if not answer.calls and name != "harmony":
            assert answer.content == text
        said = answer.content + answer.reasoning + json.dumps(as_strings(answer.calls))
        for word in SENTINELS:
            assert said.count(word) <= text.count(word)

    check()


def as_strings(calls: tuple[ToolCall, ...]) -> list[str]:
    return [text for call in calls for text in (call.name, call.arguments)]


@pytest.mark.parametrize("name", MARKED)
def test_content_and_calls_alternate_without_loss(name: str) -> None:
    words = st.text("ab <>[]{}\"'\n:,=|`", max_size=12)
    entry = dialect(name)

    @QUICK
    @given(st.lists(st.tuples(words, st.sampled_from(["one", "nested", "none_given"])), max_size=3))
    def check(parts: list[tuple[str, str]]) -> None:
        if not entry.layout.parallel:
            parts = parts[:1]
        text, spoken, expected = "", "", []
        for said, key in parts:
            said = f"zqA{said}zqB"
            text += said + "\n" + entry.native_text(CALL_SETS[key]) + "\n"
            spoken += said
            expected += as_read(CALL_SETS[key])
        answer = folded(run(entry.parser(TOOLS), [text]))
        assert as_read(answer.calls) == expected
        assert answer.content == spoken

    check()


CLOSERS = ("</parameter>", "</arg_value>", "</｜DSML｜parameter>", '<|"|>', "<escape>")
"""What ends a value where a dialect has no way to escape it."""
TEXTS = st.text(max_size=30).filter(lambda s: not any(closer in s for closer in CLOSERS))
KEYS = st.from_regex("[a-z_][a-z0-9_]{0,8}", fullmatch=True)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", DIALECTS)
def test_any_arguments_survive_the_round_trip(name: str) -> None:
    entry = dialect(name)
    where = st.dictionaries(KEYS, VALUES, max_size=3)
    one = st.fixed_dictionaries({"city": TEXTS}, optional={"days": st.integers(), "where": where})
    arguments = one.map(lambda given: ToolCall("get_weather", json.dumps(given)))
    lists = st.lists(VALUES, max_size=4).map(lambda xs: ToolCall("add", json.dumps({"xs": xs})))

    @QUICK
    @given(st.lists(arguments | lists, min_size=1, max_size=3 if entry.layout.parallel else 1))
    def check(given_calls: list[ToolCall]) -> None:
        calls = tuple(given_calls)
        answer = folded(run(entry.parser(TOOLS), list(entry.call_text(calls))))
        assert as_read(answer.calls) == as_read(calls)
        assert answer.content == ""

    check()


def test_thinking_and_calls_together_are_read_the_same_however_they_are_cut() -> None:
    words = ThinkingWords("<think>\n", "\n</think>\n\n")
    bits = [
        "<think>",
        "</think>",
        "\n",
        " ",
        "a",
        "<",
        "</thi",
        "<tool_call>",
        dialect("qwen").call_text(CALL_SETS["one"]),
    ]

    @QUICK
    @given(
        st.lists(st.sampled_from(bits), max_size=12),
        st.lists(st.integers(0, 10_000), max_size=6),
        st.booleans(),
    )
    def check(chosen: list[str], cuts: list[int], opened: bool) -> None:
        text = "".join(chosen)

        def fresh() -> ReasoningParser:
            return ReasoningParser(dialect("qwen").parser(TOOLS), words, opened=opened)

        whole = run(fresh(), [text])
        assert run(fresh(), pieces_of(text, cuts)) == whole
        assert run(fresh(), list(text)) == whole
        assert run(fresh(), list(text), cut=True) == run(fresh(), [text], cut=True)

    check()


@pytest.mark.parametrize("name", DIALECTS)
def test_deep_and_long_outputs_neither_fail_nor_hang(name: str) -> None:
    entry = dialect(name)
    begin = entry.native_text(CALL_SETS["nested"])
    cut = begin[: begin.index("deep")]
    for filler in ("[" * 5000, '{"a":' * 3000, "x" * 100_000, "\n" * 100_000, cut * 300):
        text = cut + filler
        events = []
        parser = entry.parser(TOOLS)
        for at in range(0, len(text), 64):
            events += parser.feed(text[at : at + 64])
        events += parser.finish()
        assert sum(isinstance(event, ToolCallStart) for event in events) <= 400
    assert entry.parser((Tool("ping"),)).finish() == []
