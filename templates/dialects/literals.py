"""Reads calls whose arguments are literals of a language of their own (Python's, Gemma's), and
reports them as JSON while they come."""

from __future__ import annotations

import json
import re
from abc import abstractmethod

from templates.dialects.reading import Scan
from templates.dialects.scanning import CallParser

_WORD = re.compile(r"[A-Za-z0-9_+\-.]{1,256}")
_WORDS = {
    "True": "true",
    "False": "false",
    "None": "null",
    "true": "true",
    "false": "false",
    "null": "null",
}
_DEPTH_LIMIT = 64


class LiteralParser(CallParser):
    """The values; subclasses read the calls, the strings and the keys."""

    @abstractmethod
    def _quote(self) -> Scan[str]:
        """Takes an opening quote, if one is next, and returns the closing one."""

    @abstractmethod
    def _text(self, quote: str) -> Scan[bool]:
        """Streams the string up to `quote`, escaped for JSON, without quotes of its own."""

    @abstractmethod
    def _key(self) -> Scan[str | None]:
        """Takes the key of an object's entry and the colon after it."""

    def _unknown_word(self, word: str) -> str | None:
        """JSON for a bare word that is no number or constant; None breaks the call."""
        return None

    def _literal(self, depth: int = 0) -> Scan[bool]:
        """Streams one value as JSON; False if it broke or was cut off."""
        yield from self._space()
        quote = yield from self._quote()
        if quote:
            self._argue('"')
            if not (yield from self._text(quote)):
                return False
            self._argue('"')
            return True
        char = yield from self._peek()
        if char in ("[", "("):
            return depth < _DEPTH_LIMIT and (
                yield from self._list("]" if char == "[" else ")", depth)
            )
        if char == "{":
            return depth < _DEPTH_LIMIT and (yield from self._object(depth))
        word = yield from self._word(_WORD)
        if self._cut:
            return False
        written = _WORDS.get(word) or _number(word) or self._unknown_word(word) if word else None
        if written is None:
            self._pos -= len(word)
            return False
        self._argue(written)
        return True

    def _list(self, end: str, depth: int) -> Scan[bool]:
        self._pos += 1
        count = 0
        self._argue("[")
        while True:
            if (yield from self._take_after_space(end)):
                self._argue("]")
                return True
            if count:
                if not (yield from self._take(",")):
                    return False
                if (yield from self._take_after_space(end)):
                    self._argue("]")
                    return True
                self._argue(", ")
            if not (yield from self._literal(depth + 1)):
                return False
            count += 1

    def _object(self, depth: int = 0) -> Scan[bool]:
        """An object from its opening brace."""
        self._pos += 1
        count = 0
        self._argue("{")
        while True:
            if (yield from self._take_after_space("}")):
                self._argue("}")
                return True
            if count and not (yield from self._take(",")):
                return False
            if count and (yield from self._take_after_space("}")):
                self._argue("}")
                return True
            yield from self._space()
            key = yield from self._key()
            if key is None:
                return False
            self._argue((", " if count else "") + json.dumps(key, ensure_ascii=False) + ": ")
            if not (yield from self._literal(depth + 1)):
                return False
            count += 1


def _number(word: str) -> str | None:
    """The number as JSON, Python's other spellings (`.5`, `1_000`, `0x1f`) rewritten."""
    try:
        value = json.loads(word, parse_constant=_refuse)
    except ValueError:
        if not re.match(r"[+-]?\.?\d", word):
            return None
        try:
            value = int(word, 0)
        except ValueError:
            try:
                value = float(word)
            except ValueError:
                return None
        return json.dumps(value)
    return word if isinstance(value, int | float) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
