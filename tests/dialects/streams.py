"""Feeds texts to parsers in pieces and joins what comes out."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from templates.conversation import ToolCall
from templates.format import (
    ContentDelta,
    Delta,
    OutputParser,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallStart,
)


def run(parser: OutputParser, pieces: Iterable[str], cut: bool = False) -> list[Delta]:
    """All events, neighbouring pieces joined. Every text stands where its event says."""
    events: list[Delta] = []
    fed = ""
    for piece in pieces:
        fed += piece
        events.extend(_placed(parser.feed(piece), fed))
    events.extend(_placed(parser.finish(cut), fed))
    return joined(events)


def _placed(events: Sequence[Delta], fed: str) -> Sequence[Delta]:
    for event in events:
        if isinstance(event, ContentDelta | ReasoningDelta):
            end = len(fed) - event.behind
            assert fed[end - len(event.text) : end] == event.text
    return events


def joined(events: Iterable[Delta]) -> list[Delta]:
    out: list[Delta] = []
    for event in events:
        last = out[-1] if out else None
        match last, event:
            case ContentDelta(a), ContentDelta(b):
                out[-1] = ContentDelta(a + b)
            case ReasoningDelta(a), ReasoningDelta(b):
                out[-1] = ReasoningDelta(a + b)
            case ToolArgumentsDelta(i, a), ToolArgumentsDelta(j, b) if i == j:
                out[-1] = ToolArgumentsDelta(i, a + b)
            case _, ContentDelta(text):
                out.append(ContentDelta(text))
            case _, ReasoningDelta(text):
                out.append(ReasoningDelta(text))
            case _:
                out.append(event)
    return out


@dataclass(frozen=True)
class Answer:
    content: str
    reasoning: str
    calls: tuple[ToolCall, ...]


def folded(events: Iterable[Delta]) -> Answer:
    """The message the events make; fails on indexes that are not dense or not in order."""
    content = reasoning = ""
    calls: list[list[str | None]] = []
    for event in events:
        match event:
            case ContentDelta(text):
                content += text
            case ReasoningDelta(text):
                reasoning += text
            case ToolCallStart(index, name, call_id):
                assert index == len(calls)
                calls.append([name, "", call_id])
            case ToolArgumentsDelta(index, text):
                assert index == len(calls) - 1
                calls[index][1] += text  # type: ignore[operator]
    return Answer(content, reasoning, tuple(ToolCall(*call) for call in calls))  # type: ignore[arg-type]


def splits(text: str, rounds: int = 20, seed: int = 0) -> Iterator[list[str]]:
    """Whole, by character, every way of cutting in two, and some random ways of cutting."""
    yield [text]
    yield list(text)
    for at in range(1, len(text)):
        yield [text[:at], text[at:]]
    rng = random.Random(seed)
    for _ in range(rounds):
        cuts = sorted(rng.sample(range(len(text) + 1), min(len(text), rng.randint(1, 12))))
        yield [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
