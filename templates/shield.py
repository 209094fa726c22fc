"""Keeps control words in users' texts from acting where a renderer returns flat text.

A tool list or a Jinja template mixes its own marks with texts of the caller. Before rendering,
every control word in the caller's texts is replaced by a placeholder that cannot be guessed;
afterwards the text is split there, and the word stands in a content segment, which is never read
as control.
A text without control words passes unchanged, which is nearly always so.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, cast

from templates.format import Segment


class Shield:
    """Guards one set of control words. Immutable."""

    def __init__(self, words: Iterable[str]) -> None:
        ordered = sorted({word for word in words if word}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ordered)) or r"(?!)")
        heads = {word[n:] for word in ordered for n in range(1, len(word))}
        tails = {word[:n] for word in ordered for n in range(1, len(word))}
        self._heads = frozenset(part for part in heads if _may_join(part))
        self._tails = frozenset(part for part in tails if _may_join(part))
        self._head_ends = frozenset(part[:2] for part in self._heads)
        self._tail_ends = frozenset(part[-2:] for part in self._tails)
        self._longest = max(map(len, ordered), default=0)

    def spells(self, text: str) -> bool:
        """Whether the text holds a control word, or a piece of one at an end."""
        return bool(text) and (
            self._pattern.search(text) is not None or self._head(text) > 0 or self._tail(text) > 0
        )

    def spells_any(self, texts: Sequence[str | None]) -> bool:
        """The same for any of many texts, at less cost than one by one."""
        given = [text for text in texts if text]
        if self._pattern.search("\n".join(given)) is not None:
            return any(map(self.spells, given))
        heads, tails = self._head_ends, self._tail_ends
        return any(
            (text[:2] in heads or text[:1] in heads) and self._head(text) > 0 for text in given
        ) or any(
            (text[-2:] in tails or text[-1:] in tails) and self._tail(text) > 0 for text in given
        )

    def spells_in(self, value: Any) -> bool:
        """The same for any text within a JSON-like value."""
        if isinstance(value, str):
            return self.spells(value)
        if isinstance(value, dict):
            items = cast(dict[Any, Any], value).items()
            return any(self.spells_in(key) or self.spells_in(item) for key, item in items)
        if isinstance(value, list | tuple):
            return any(map(self.spells_in, cast(list[Any], value)))
        return False

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where control words stand, and pieces of them at the ends."""
        spans = [match.span() for match in self._pattern.finditer(text)]
        head, tail = self._head(text), len(text) - self._tail(text)
        if head and not (spans and spans[0][0] < head):
            spans.insert(0, (0, head))
        if tail < len(text) and not (spans and spans[-1][1] > tail):
            spans.append((tail, len(text)))
        return spans

    def _head(self, text: str) -> int:
        """Length of the longest end of a control word that the text begins with."""
        if text[:2] not in self._head_ends and text[:1] not in self._head_ends:
            return 0
        longest = min(self._longest - 1, len(text))
        return next((n for n in range(longest, 0, -1) if text[:n] in self._heads), 0)

    def _tail(self, text: str) -> int:
        if text[-2:] not in self._tail_ends and text[-1:] not in self._tail_ends:
            return 0
        longest = min(self._longest - 1, len(text))
        return next((n for n in range(longest, 0, -1) if text[-n:] in self._tails), 0)


def _may_join(part: str) -> bool:
    """A single letter says nothing: texts begin and end with letters all the time."""
    return len(part) > 1 or not part.isalnum()


@lru_cache(maxsize=64)
def shield_for(words: frozenset[str]) -> Shield:
    return Shield(words)


class Shielding:
    """One conversation: hands out placeholders, then splits rendered texts at them. A word has the
    same placeholder each time, so that one rendering can be the beginning of another."""

    def __init__(self, shield: Shield) -> None:
        self._shield = shield
        self._nonce = f"x{secrets.token_hex(8)}x"
        self._hidden: list[str] = []
        self._numbers: dict[str, int] = {}

    def protect(self, text: str) -> str:
        spans = self._shield.spans(text)
        if not spans:
            return text
        parts: list[str] = []
        position = 0
        for start, end in spans:
            parts += [text[position:start], self._placeholder(text[start:end])]
            position = end
        return "".join([*parts, text[position:]])

    def _placeholder(self, word: str) -> str:
        number = self._numbers.setdefault(word, len(self._hidden))
        if number == len(self._hidden):
            self._hidden.append(word)
        return f"{self._nonce}{number}{self._nonce}"

    def protect_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.protect(value)
        if isinstance(value, dict):
            items = cast(dict[Any, Any], value).items()
            return {self.protect_value(key): self.protect_value(item) for key, item in items}
        if isinstance(value, list | tuple):
            return [self.protect_value(item) for item in cast(list[Any], value)]
        return value

    def split(self, rendered: str, plain: str) -> tuple[Segment, ...]:
        """Segments of `rendered`. `plain` is the rendering without placeholders: it shows how the
        renderer spells a word, as far as the two agree."""
        pieces = re.split(f"{self._nonce}(\\d+){self._nonce}", rendered)
        segments: list[Segment] = []
        position = 0
        agrees = True
        for index, piece in enumerate(pieces):
            hidden = index % 2 == 1
            text = self._hidden[int(piece)] if hidden else piece
            if agrees:
                shown = next((t for t in _spellings(text, hidden) if _at(plain, t, position)), None)
                agrees = shown is not None
                text = text if shown is None else shown
                position += len(text)
            if text:
                segments.append(Segment(text, control=not hidden))
        return tuple(segments)

    def left_in(self, text: str) -> bool:
        """Whether a placeholder was cut or changed by the renderer, so that it cannot be undone."""
        return self._nonce in text


def _spellings(text: str, hidden: bool) -> list[str]:
    """A hidden word may stand as it is or as JSON writes it."""
    if not hidden:
        return [text]
    return [text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]]


def _at(text: str, part: str, position: int) -> bool:
    return text.startswith(part, position)
