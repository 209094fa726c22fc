"""Stop strings end the content; thoughts and tool calls may hold them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from server.answering.stops import StopParser, StopStrings
from templates.dialects import dialect
from templates.reasoning import ReasoningParser, ThinkingWords
from tests.dialects.streams import folded, run, splits
from tests.dialects.test_streaming import TOOLS
from tests.gateway.conftest import MODEL, Gateway, user, wait_for
from tests.gateway.test_clients import TOOL

LOOSE: Any = {"type": "function", "function": TOOL["function"] | {"strict": False}}
Answer = tuple[str, str, list[str], str]
"""Reasoning, content, arguments of calls, finish reason."""


def ask(client: openai.OpenAI, text: str, *, stream: bool, **fields: Any) -> list[Answer]:
    answer: Any = client.chat.completions.create(
        model=MODEL, messages=user(text), stream=stream, **fields
    )
    if not stream:
        return [
            (
                getattr(choice.message, "reasoning_content", None) or "",
                choice.message.content or "",
                [call.function.arguments for call in choice.message.tool_calls or ()],
                choice.finish_reason,
            )
            for choice in answer.choices
        ]
    return list(folded_chunks(answer))


def folded_chunks(chunks: Any) -> Iterator[Answer]:
    by_index: dict[int, Any] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            answer = by_index.setdefault(choice.index, ["", "", [], ""])
            answer[0] += getattr(choice.delta, "reasoning_content", None) or ""
            answer[1] += choice.delta.content or ""
            for call in choice.delta.tool_calls or ():
                if call.index == len(answer[2]):
                    answer[2].append("")
                answer[2][call.index] += call.function.arguments
            answer[3] = choice.finish_reason or answer[3]
    return (tuple(by_index[index]) for index in sorted(by_index))


THOUGHT = "hmm hmm"
PARIS = '{"city": "Paris"}'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        ("think first", {"stop": "hm"}, (THOUGHT, "Done thinking.", [], "stop")),
        ("think first", {"stop": [" think", "zz"]}, (THOUGHT, "Done", [], "stop")),
        ("think first", {"stop": ["</think>", "\n"]}, (THOUGHT, "Done thinking.", [], "stop")),
        ("think first", {"stop": "Done"}, (THOUGHT, "", [], "stop")),
        ("weather tool", {"stop": ["Paris", "}"], "tools": [LOOSE]},
         ("", "", [PARIS], "tool_calls")),
        ("say hello", {"stop": ", friend"}, ("", "Hello there", [], "stop")),
        ("say hello", {"stop": "friend", "tools": [LOOSE]}, ("", "Hello there, ", [], "stop")),
        ("say hello", {"stop": "zz", "max_tokens": 2}, ("", "Hello there", [], "length")),
        ("say hello", {"stop": "Hello", "extra_body": {"min_tokens": 2}},
         ("", "Hello there, friend.", [], "stop")),
        ("think first", {"stop": "m h", "extra_body": {"stop_in_reasoning": True}},
         ("hm", "", [], "stop")),
        ("think first", {"stop": "think", "extra_body": {"stop_in_reasoning": True}},
         (THOUGHT, "Done ", [], "stop")),
        ("think first", {"stop": "m h", "extra_body": {"stop_in_reasoning": False}},
         (THOUGHT, "Done thinking.", [], "stop")),
    ],
)  # fmt: skip
def test_a_stop_string_binds_the_content(
    client: openai.OpenAI, text: str, fields: dict[str, Any], expected: Answer, stream: bool
) -> None:
    assert ask(client, text, stream=stream, **fields) == [expected]
    assert ask(client, text, stream=stream, n=2, **fields) == [expected] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_the_engine_is_told_that_an_answer_was_stopped(
    gateway: Gateway, client: openai.OpenAI, stream: bool
) -> None:
    """Its own output would never end."""
    connection = gateway.app.services.pool.connections(MODEL)[0]
    wait_for(lambda: connection.num_requests == 0)
    answers = ask(client, "never end", stream=stream, stop="rd")
    assert answers == [("", "wo", [], "stop")]
    wait_for(lambda: connection.num_requests == 0)


def test_log_probabilities_end_where_the_text_does(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=user("say hello"), stop="friend", logprobs=True
    )
    (choice,) = answer.choices
    assert choice.message.content == "Hello there, "
    assert choice.logprobs is not None
    tokens = [entry.token for entry in choice.logprobs.content or ()]
    assert tokens == ["Hello", " there", ",", " friend"]


OUTPUT = (
    "<think>\nSTOP here, or ST\n</think>\n\nAn answer ST OP, then "
    '<tool_call>\n{"name": "add", "arguments": {"xs": ["STOP"]}}\n</tool_call>\n no ST'
)


HIDDEN = "STOP here, or ST"
CALLED = "An answer ST OP, then "
CUTS: list[tuple[list[str], bool, str, str]] = [
    (["STOP"], False, HIDDEN, CALLED + " no ST"),
    (["STOP"], True, "", ""),
    (["then"], False, HIDDEN, "An answer ST OP, "),
    (["then"], True, HIDDEN, "An answer ST OP, "),
    (["answer ST O", "ST"], False, HIDDEN, "An answer "),
    (["OP", "P,"], True, "ST", ""),
    ([" no ST"], False, HIDDEN, CALLED),
    (["An", "no"], True, HIDDEN, ""),
]


@pytest.mark.parametrize(("stops", "in_reasoning", "reasoning", "content"), CUTS)
def test_a_stop_is_met_however_the_output_is_cut(
    stops: list[str], in_reasoning: bool, reasoning: str, content: str
) -> None:
    def parser() -> StopParser:
        words = ThinkingWords("<think>\n", "\n</think>\n\n")
        inner = ReasoningParser(dialect("qwen").parser(TOOLS), words, opened=False)
        return StopParser(inner, StopStrings(stops, in_reasoning, 0))

    whole = run(parser(), [OUTPUT])
    answer = folded(whole)
    assert (answer.reasoning, answer.content) == (reasoning, content)
    for pieces in splits(OUTPUT):
        assert run(parser(), pieces) == whole, pieces
