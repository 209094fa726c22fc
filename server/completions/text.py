"""One completion as it is read from the engine, with the log probabilities of its tokens in the
form the legacy endpoint gives them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from server.generation.answers import finite
from workers.contract.messages import TokenLogprob


class LegacyLogprobs:
    """Parallel lists; `text_offset` counts characters from the start of the choice's text."""

    __slots__ = ("_offset", "_offsets", "_texts", "_tokens", "_tops", "total")

    def __init__(self) -> None:
        self._offset = 0
        self._offsets: list[int] = []
        self._texts: list[str] = []
        self._tokens: list[float | None] = []
        self._tops: list[dict[str, float] | None] = []
        self.total = 0.0
        """Sum over the tokens added with `ranked`."""

    def __len__(self) -> int:
        return len(self._texts)

    def add_prompt(
        self, entries: Sequence[TokenLogprob], echo: str, control_words: Collection[str]
    ) -> None:
        """Control tokens that the tokenizer put before the echoed text are no part of it: they
        are listed, and take no room in it."""
        for index, entry in enumerate(entries):
            if entry.token not in control_words or echo.startswith(entry.token):
                self.add(entries[index:], ranked=False)
                return
            self.add([entry], ranked=False)
            self._offset = 0

    def add(self, entries: Sequence[TokenLogprob], *, ranked: bool = True) -> None:
        for entry in entries:
            self._texts.append(entry.token)
            self._offsets.append(self._offset)
            self._offset += len(entry.token)
            if math.isnan(entry.logprob):
                self._tokens.append(None)
                self._tops.append(None)
                continue
            top = {other.token: finite(other.logprob) for other in entry.top}
            top.setdefault(entry.token, finite(entry.logprob))
            self._tokens.append(finite(entry.logprob))
            self._tops.append(top)
            if ranked:
                self.total += entry.logprob

    def take(self) -> dict[str, Any]:
        """What was added since the last time."""
        taken = {
            "tokens": self._texts,
            "token_logprobs": self._tokens,
            "top_logprobs": self._tops,
            "text_offset": self._offsets,
        }
        self._texts, self._tokens, self._tops, self._offsets = [], [], [], []
        return taken
