"""Stop strings where an output is more than its content.

An engine matches stop strings on the raw output. That is right for plain text; where there may be
thinking or tool calls, they bind what the caller gets as `content`, and are matched here: neither a
thought nor a call's arguments end an answer. The sequence is aborted at the engine then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

import msgspec

from templates.dialects.reading import partial_mark
from templates.format import ContentDelta, Delta, OutputParser, ReasoningDelta

Text = ContentDelta | ReasoningDelta


class StopStrings(msgspec.Struct, frozen=True):
    texts: list[str]
    in_reasoning: bool
    """Whether they end an answer inside its thinking, too."""
    min_tokens: int
    """Nothing is matched before so many tokens are out."""


class _Held(NamedTuple):
    kind: type[ContentDelta] | type[ReasoningDelta]
    text: str
    end: int
    """Where the text ends in the output."""


class StopParser:
    """Another parser's events up to the first stop string. `met` is the one that was.

    Text that may begin one is held. Of several stop strings the first that is complete counts, so
    that it does not matter how the output is cut into pieces."""

    def __init__(self, parser: OutputParser, stops: StopStrings) -> None:
        self._parser = parser
        self._texts = tuple(stops.texts)
        self._in_reasoning = stops.in_reasoning
        self._min_tokens = stops.min_tokens
        self._num_tokens = 0
        self._fed = 0
        self._held: list[_Held] = []
        """Of one kind."""
        self.met: str | None = None

    @property
    def stopped(self) -> bool:
        return self.met is not None

    def count(self, num_tokens: int) -> None:
        """Of the text that is fed next."""
        self._num_tokens += num_tokens

    def feed(self, text: str) -> Sequence[Delta]:
        if self.stopped:
            return ()
        self._fed += len(text)
        return self._bound(self._parser.feed(text))

    def finish(self, cut: bool = False) -> Sequence[Delta]:
        if self.stopped:
            return ()
        out = self._bound(self._parser.finish(cut))
        return out if self.stopped else [*out, *self._release()]

    def _bound(self, deltas: Sequence[Delta]) -> list[Delta]:
        out: list[Delta] = []
        is_on = not self._min_tokens or self._num_tokens > self._min_tokens
        for delta in deltas:
            if not is_on or not self._is_bound(delta):
                out += self._release()
                out.append(delta)
                continue
            if self._held and self._held[0].kind is not type(delta):
                out += self._release()
            self._held.append(_Held(type(delta), delta.text, self._fed - delta.behind))
            out += self._match()
            if self.stopped:
                break
        return out

    def _is_bound(self, delta: Delta) -> TypeGuard[Text]:
        return isinstance(delta, ContentDelta) or (
            self._in_reasoning and isinstance(delta, ReasoningDelta)
        )

    def _match(self) -> list[Delta]:
        """What of the held text may go out."""
        text = "".join(held.text for held in self._held)
        found = [(at + len(stop), at, stop) for stop in self._texts if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.met = min(found)
            return self._release(at)
        return self._release(partial_mark(text, 0, self._texts))

    def _release(self, size: int | None = None) -> list[Delta]:
        """The first `size` characters of the held text; all of it for None."""
        out: list[Delta] = []
        while self._held and size != 0:
            kind, text, end = self._held.pop(0)
            taken = text[:size]
            rest = text[len(taken) :]
            out.append(kind(taken, self._fed - end + len(rest)))
            if rest:
                self._held.insert(0, _Held(kind, rest, end))
                break
            size = None if size is None else size - len(taken)
        return out
