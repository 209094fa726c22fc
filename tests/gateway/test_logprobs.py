"""Which tokens the log probabilities of a chat answer list: those of its content, apart from those
of its reasoning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from server.answering.choice import ChoiceReader
from templates.dialects import dialect
from templates.format import ContentDelta, ReasoningDelta
from templates.reasoning import ReasoningParser, ThinkingWords
from tests.dialects.streams import splits
from tests.dialects.test_streaming import TOOLS
from tests.gateway.conftest import MODEL, Gateway, make_config, start_gateway, start_worker, user
from tests.gateway.test_stops import LOOSE
from workers.contract.messages import Finished, FinishReason, Token, TokenLogprob

THOUGHT = ["<think>", "\n", "hm", " so", "\n", "</think>", "\n\n"]
CALL = ["<tool_call>", '\n{"name": "get_weather",', ' "arguments": {}', "}\n", "</tool_call>"]
REPLIES: list[dict[str, Any]] = [
    {"contains": "think", "tokens": [*THOUGHT, "Two", " words", "."]},
    {"contains": "span", "tokens": ["<think>\nhm", "m</think>\n\nTwo", " words", "."]},
    {"contains": "look it up", "tokens": ["Look", ".", "\n", *CALL, "\n", "Done"]},
    {"contains": "join", "tokens": ["Look", ".\n<tool", *["_call>", *CALL[1:]]]},
]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("logprobs")
    worker = start_worker(folder, "engine", REPLIES)
    running: Gateway = start_gateway(make_config(folder), [worker], [MODEL])
    with running.client() as client:
        yield client
    running.stop()
    worker.stop()


def listed(client: openai.OpenAI, text: str, stream: bool, **extra: Any) -> tuple[list[str], ...]:
    answer: Any = client.chat.completions.create(
        model=MODEL,
        messages=user(text),
        logprobs=True,
        stream=stream,
        tools=[LOOSE],
        extra_body=extra,
    )
    content: list[str] = []
    reasoning: list[str] = []
    for part in answer if stream else [answer]:
        for choice in part.choices:
            if choice.logprobs is not None:
                content += [entry.token for entry in choice.logprobs.content or ()]
                given: Any = getattr(choice.logprobs, "reasoning", None) or ()
                reasoning += [entry["token"] for entry in given]
    return content, reasoning


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_listed_with_the_text_they_are_of(asked: openai.OpenAI, stream: bool) -> None:
    assert listed(asked, "think", stream) == (["Two", " words", "."], ["hm", " so"])
    assert listed(asked, "look it up", stream) == (["Look", ".", "Done"], [])
    # A token that reaches over a border is listed with what it begins.
    spanning = ["<think>\nhm", "m</think>\n\nTwo"]
    assert listed(asked, "span", stream) == ([" words", "."], spanning)
    assert listed(asked, "join", stream) == (["Look", ".\n<tool"], [])


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_that_is_not_shown_has_no_tokens(asked: openai.OpenAI, stream: bool) -> None:
    answer = listed(asked, "think", stream, include_reasoning=False)
    assert answer == (["Two", " words", "."], [])


def test_every_token_of_the_content_is_listed_once_however_the_output_is_cut() -> None:
    text = "<think>\nhm \u00e9\n</think>\n\nLook. \n" + "".join(CALL) + "\n and <tool more\n"
    words = ThinkingWords("<think>\n", "\n</think>\n\n")
    for pieces in splits(text):
        content, reasoning = tokens_of(text, pieces, words)
        places = {"content": content, "reasoning": reasoning}
        whole = {"content": "Look. ", "reasoning": "hm \u00e9"}
        for name, said in whole.items():
            begin = text.index(said)
            for at, piece in places[name]:
                if at < begin + len(said):
                    assert at + len(piece) > begin, (name, pieces)
        starts = sorted(at for at, _ in content + reasoning)
        assert len(set(starts)) == len(starts)
        covered = {n for at, piece in content + reasoning for n in range(at, at + len(piece))}
        shown = [text.index("hm"), text.index("Look"), text.index(" and"), text.index("<tool more")]
        assert covered.issuperset(shown), pieces


def tokens_of(
    text: str, pieces: list[str], words: ThinkingWords
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Each piece is a token; where those listed begin, and their texts."""
    inner = ReasoningParser(dialect("qwen").parser(TOOLS), words, opened=False)
    reader = ChoiceReader(inner, False, with_logprobs=True)
    content: list[tuple[int, str]] = []
    reasoning: list[tuple[int, str]] = []

    def take(deltas: Any) -> None:
        for delta in deltas:
            if isinstance(delta, ContentDelta):
                content.extend((e.at, e.token) for e in reader.take_logprobs(delta))
            elif isinstance(delta, ReasoningDelta):
                reasoning.extend((e.at, e.token) for e in reader.take_logprobs(delta))

    at = 0
    for piece in pieces:
        if not piece:
            continue
        entry = TokenLogprob(1, piece, piece.encode(), -1.0, [], at)
        take(reader.read(Token(1, [1], piece, [entry])))
        at += len(piece)
    assert at == len(text)
    take(reader.finish(Finished(1, FinishReason.STOP, 0, 0)))
    return content, reasoning
