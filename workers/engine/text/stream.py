"""One sequence's output as text: UTF-8 across tokens, stop strings across token borders.

Splitting the same tokens differently into `feed` calls gives the same text and the same stop.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from workers.contract.messages import TokenAlternative, TokenLogprob
from workers.engine.backend import Score
from workers.engine.text.vocabulary import Vocabulary

_utf8 = codecs.getincrementaldecoder("utf-8")


@dataclass(slots=True)
class Piece:
    """What a feed released. `stop` is the stop string met: the output ends before it."""

    token_ids: Sequence[int]
    text: str
    logprobs: list[TokenLogprob] | None = None
    stop: str | None = None


def describe_token(
    vocabulary: Vocabulary, token_id: int, score: Score, at: int = 0
) -> TokenLogprob:
    data = vocabulary.piece(token_id)
    top = [
        TokenAlternative(other, (raw := vocabulary.piece(other)).decode("utf-8", "replace"), raw, p)
        for other, p in score.top
    ]
    return TokenLogprob(token_id, data.decode("utf-8", "replace"), data, score.logprob, top, at)


class TextStream:
    """Feed token ids, get text. Tokens are released with the text they begin in, so what is
    reported never reaches into a stop string."""

    __slots__ = (
        "_decoded_chars",
        "_decoder",
        "_held",
        "_hidden",
        "_min_tokens",
        "_pending",
        "_stops",
        "_vocabulary",
        "num_tokens",
    )

    def __init__(
        self,
        vocabulary: Vocabulary,
        stops: Sequence[str] = (),
        *,
        skip_special_tokens: bool = True,
        min_tokens: int = 0,
    ) -> None:
        self._vocabulary = vocabulary
        self._decoder = _utf8("replace")
        self._hidden = vocabulary.special_ids if skip_special_tokens else frozenset[int]()
        self._stops = tuple(stop for stop in stops if stop)
        self._min_tokens = min_tokens
        self._held = ""
        self._decoded_chars = 0
        self._pending: list[tuple[int, int, TokenLogprob | None]] = []
        self.num_tokens = 0

    def feed(self, token_ids: Sequence[int], scores: Sequence[Score] | None = None) -> Piece:
        if not self._stops:
            self.num_tokens += len(token_ids)
            if scores is None:
                return Piece(token_ids, "".join(map(self._decode, token_ids)))
            logprobs: list[TokenLogprob] = []
            texts: list[str] = []
            for token_id, score in zip(token_ids, scores, strict=True):
                logprobs.append(self._describe(token_id, score))
                texts.append(self._decode(token_id))
            return Piece(token_ids, "".join(texts), logprobs)
        released: list[str] = []
        for index, token_id in enumerate(token_ids):
            entry = None if scores is None else self._describe(token_id, scores[index])
            self._pending.append((self._decoded_chars, token_id, entry))
            self.num_tokens += 1
            text, stop = self._admit(self._decode(token_id))
            released.append(text)
            if stop is not None:
                return self._release("".join(released), stop, scores is not None)
        return self._release("".join(released), None, scores is not None)

    def finish(self) -> Piece:
        """The output has ended: gives what was held, an incomplete character as U+FFFD."""
        tail = self._decoder.decode(b"", True)
        if not self._stops:
            return Piece((), tail)
        self._decoded_chars += len(tail)
        text, stop = self._admit(tail)
        if stop is None:
            text, self._held = text + self._held, ""
        scored = any(entry is not None for _, _, entry in self._pending)
        return self._release(text, stop, scored)

    def _describe(self, token_id: int, score: Score) -> TokenLogprob:
        return describe_token(self._vocabulary, token_id, score, self._decoded_chars)

    def _decode(self, token_id: int) -> str:
        if token_id in self._hidden:
            return ""
        text = self._decoder.decode(self._vocabulary.piece(token_id))
        self._decoded_chars += len(text)
        return text

    def _admit(self, text: str) -> tuple[str, str | None]:
        """Adds decoded text; gives what may go out, and the stop string if one is complete."""
        if self.num_tokens <= self._min_tokens and self._min_tokens:
            released, self._held = self._held + text, ""
            return released, None
        self._held += text
        found = min(
            (
                (at + len(stop), at, stop)
                for stop in self._stops
                if (at := self._held.find(stop)) >= 0
            ),
            default=None,
        )
        if found is not None:
            _, at, stop = found
            released, self._held = self._held[:at], self._held[at:]
            return released, stop
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        cut = len(self._held) - keep
        released, self._held = self._held[:cut], self._held[cut:]
        return released, None

    def _release(self, text: str, stop: str | None, scored: bool) -> Piece:
        border = self._decoded_chars - len(self._held)
        if not self._held and stop is None:
            out, self._pending = self._pending, []
        else:
            out = [entry for entry in self._pending if entry[0] < border]
            self._pending = self._pending[len(out) :]
        logprobs = [entry for _, _, entry in out if entry is not None] if scored else None
        return Piece([token_id for _, token_id, _ in out], text, logprobs, stop)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
