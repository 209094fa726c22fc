"""Tells a model's thinking from its answer by the family's thinking words.

White space next to a thinking word is layout and not reported: after the opening word, before and
after the closing one. Thinking opens an output or does not occur: a thinking word inside content is
content. Thinking that never closes is reasoning to its end. An output that begins with the closing
word has an empty thought (GLM 4.7 writes it so).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from templates.dialects.constraints import as_format
from templates.dialects.reading import SPACE
from templates.format import Delta, OutputConstraint, OutputParser, ReasoningDelta


@dataclass(frozen=True, slots=True)
class ThinkingWords:
    """`start` and `end` as the family writes them, white space included (`"<think>\\n"`)."""

    start: str
    end: str


class _State(Enum):
    OPENING = auto()
    """Waiting to see whether the output begins with the opening word."""
    LEADING = auto()
    """After the opening word, before the first thought."""
    THINKING = auto()
    CLOSED = auto()
    """After the closing word, before the first content."""
    CONTENT = auto()


class ReasoningParser:
    """Reports thinking and hands the rest to the parser of the content."""

    def __init__(self, content: OutputParser, words: ThinkingWords, *, opened: bool) -> None:
        """`opened`: the prompt ended inside the thinking words."""
        self._content = content
        self._start = words.start.strip()
        self._end = words.end.strip()
        self._end_first = self._end[0]
        self._opened = opened
        self._state = _State.OPENING
        self._held = ""

    def feed(self, text: str) -> Sequence[Delta]:
        if self._state is _State.CONTENT:
            return self._content.feed(text)
        if not text:
            return ()
        if (
            self._state is _State.THINKING
            and not self._held
            and text[-1] > " "
            and self._end_first not in text
        ):
            return (ReasoningDelta(text),)
        self._held += text
        return self._advance(ended=False)

    def finish(self, cut: bool = False) -> Sequence[Delta]:
        out: list[Delta] = []
        if self._state is not _State.CONTENT:
            if cut:
                self._held = self._held[: self._partial_word()]
            out.extend(self._advance(ended=True))
        out.extend(self._content.finish(cut))
        return out

    def _partial_word(self) -> int:
        """Where the beginning of a thinking word at the end of the held text starts."""
        if self._state is _State.THINKING:
            return self._partial_end(self._held)
        begun = self._held.lstrip(SPACE)
        opens = self._start.startswith(begun) or self._end.startswith(begun)
        return 0 if self._state is _State.OPENING and begun and opens else len(self._held)

    def _advance(self, *, ended: bool) -> Sequence[Delta]:
        out: list[Delta] = []
        if self._state is _State.OPENING and not self._open(ended):
            return out
        if self._state is _State.LEADING:
            self._held = self._held.lstrip(SPACE)
            if self._held:
                self._state = _State.THINKING
        if self._state is _State.THINKING:
            whole = len(self._held)
            thought = self._think(ended)
            if thought:
                out.append(ReasoningDelta(thought, whole - len(thought)))
        if self._state is _State.CLOSED:
            self._held = self._held.lstrip(SPACE)
            if self._held:
                self._state = _State.CONTENT
        if self._state is _State.CONTENT:
            out.extend(self._content.feed(self._held))
            self._held = ""
        return out

    def _open(self, ended: bool) -> bool:
        """Decides whether the output begins with thinking; False while that is open."""
        begun = self._held.lstrip(SPACE)
        if begun.startswith(self._start):
            self._held = begun[len(self._start) :]
            self._state = _State.LEADING
        elif begun.startswith(self._end):
            self._held = begun[len(self._end) :]
            self._state = _State.CLOSED
        elif (self._start.startswith(begun) or self._end.startswith(begun)) and not ended:
            return False
        else:
            self._state = _State.LEADING if self._opened else _State.CONTENT
        return True

    def _think(self, ended: bool) -> str:
        """Takes the thinking that is certain; what may be the closing word stays held."""
        held = self._held
        at = held.find(self._end)
        if at >= 0:
            self._held = held[at + len(self._end) :]
            self._state = _State.CLOSED
            return held[:at].rstrip(SPACE)
        if ended:
            self._held = ""
            return held
        size = len(held[: self._partial_end(held)].rstrip(SPACE))
        self._held = held[size:]
        return held[:size]

    def _partial_end(self, text: str) -> int:
        """Where the longest beginning of the closing word at the end of `text` starts."""
        for size in range(min(len(self._end) - 1, len(text)), 0, -1):
            if text.endswith(self._end[:size]):
                return len(text) - size
        return len(text)


def after_reasoning(
    constraint: OutputConstraint, words: ThinkingWords, *, opened: bool
) -> OutputConstraint:
    """`constraint` for what follows the thinking: thinking is free and, unless the prompt opened
    it, may be left out."""
    start, end = words.start.strip(), words.end.strip()
    thought: dict[str, Any] = {
        "type": "tag",
        "begin": "" if opened else start,
        "content": {"type": "any_text"},
        "end": end,
    }
    gap = {"type": "regex", "pattern": r"\n{0,2}"}
    thinking: dict[str, Any] = {"type": "sequence", "elements": [thought, gap]}
    if not opened:
        thinking = {"type": "optional", "content": thinking}
    bound = {"type": "sequence", "elements": [thinking, as_format(constraint)]}
    source = {"type": "structural_tag", "format": bound}
    return OutputConstraint("structural_tag", json.dumps(source, ensure_ascii=False))
