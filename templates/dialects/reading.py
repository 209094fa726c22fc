"""Reads an output as if it were all there, waiting wherever it is not.

Everything here is a generator that yields for more text; what it returns does not depend on how the
text was cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
Scan = Generator[None, None, T]

SPACE = " \t\r\n"
NAME_LIMIT = 256
"""Longest call header waited for, in characters, before it is taken for content."""

quoted = json.JSONEncoder(ensure_ascii=False).encode
"""A string as JSON; made once, as this runs for every piece of some dialects' arguments."""

_OUTSIDE_STRING = re.compile(r"[^ \t\r\n,:0-9A-Za-z.+\-]")
_INSIDE_STRING = re.compile(r'["\\\x00-\x1f]')
_NOT_SPACE = re.compile(r"[^ \t\r\n]")
_CLOSER = {"{": "}", "[": "]"}


class Reader:
    """The text so far, and how far it is read. `_mark` is where held text starts, if any is: from
    there on it is kept. `_pos` never lies before it."""

    def __init__(self) -> None:
        self._buf: str = ""
        self._pos: int = 0
        self._mark: int | None = None
        self._ended = False
        self._cut = False
        """Whether the output ended for its length."""

    def _at_end(self) -> bool:
        return self._pos >= len(self._buf)

    def _more(self) -> Scan[bool]:
        """Waits for more text; False once the output has ended. Offsets from `_pos` stay valid."""
        if self._ended:
            return False
        keep = self._pos if self._mark is None else self._mark
        if keep:
            self._buf = self._buf[keep:]
            self._pos -= keep
            if self._mark is not None:
                self._mark = 0
        yield
        return not self._ended

    def _peek(self) -> Scan[str]:
        """The next character, or nothing at the end of the output."""
        while self._at_end():
            if not (yield from self._more()):
                return ""
        return self._buf[self._pos]

    def _space(self) -> Scan[None]:
        while True:
            found = _NOT_SPACE.search(self._buf, self._pos)
            self._pos = found.start() if found else len(self._buf)
            if found or not (yield from self._more()):
                return

    def _starts(self, text: str) -> Scan[bool]:
        """Whether the output goes on with `text`."""
        while not self._buf.startswith(text, self._pos):
            rest = self._buf[self._pos :]
            if len(rest) >= len(text) or not text.startswith(rest):
                return False
            if not (yield from self._more()):
                return False
        return True

    def _take(self, text: str) -> Scan[bool]:
        if (yield from self._starts(text)):
            self._pos += len(text)
            return True
        return False

    def _take_after_space(self, text: str) -> Scan[bool]:
        yield from self._space()
        return (yield from self._take(text))

    def _word(self, pattern: re.Pattern[str]) -> Scan[str]:
        """The longest run that matches `pattern`, which must match every beginning of a match."""
        while True:
            found = pattern.match(self._buf, self._pos)
            word = found.group() if found else ""
            if self._pos + len(word) < len(self._buf) or not (yield from self._more()):
                self._pos += len(word)
                return word

    def _until(self, *ends: str, limit: int | None = NAME_LIMIT) -> Scan[str | None]:
        """The text before the first of `ends`, both taken; None when none comes within `limit`."""
        longest = max(map(len, ends))
        seen = 0
        while True:
            found = [
                (at, -len(end))
                for end in ends
                if (at := self._buf.find(end, self._pos + seen)) >= 0
            ]
            if found:
                at, size = min(found)
                text = self._buf[self._pos : at]
                if limit is not None and len(text) > limit:
                    return None
                self._pos = at - size
                return text
            seen = max(0, len(self._buf) - self._pos - longest + 1)
            if (limit is not None and seen > limit) or not (yield from self._more()):
                return None

    def _stream_until(self, *ends: str, emit: Callable[[str], None]) -> Scan[str | None]:
        """Streams the text before the first of `ends` to `emit` and takes the end, which is
        returned; None when the output ended first. No end may begin another."""
        while True:
            found = [(at, end) for end in ends if (at := self._buf.find(end, self._pos)) >= 0]
            at, end = min(found, default=(partial_mark(self._buf, self._pos, ends), None))
            emit(self._buf[self._pos : at])
            self._pos = at
            if end is not None:
                self._pos += len(end)
                return end
            if not (yield from self._more()):
                emit(self._rest())
                return None

    def _rest(self) -> str:
        """Takes what is left at the output's end, where it may go on as something else; gives
        nothing if the output was cut there."""
        rest = "" if self._cut else self._buf[self._pos :]
        self._pos = len(self._buf)
        return rest

    def _close(self, mark: str) -> Scan[bool]:
        """Takes a closing mark after white space; one that the output ends in counts as taken."""
        yield from self._space()
        if (yield from self._take(mark)):
            return True
        rest = self._buf[self._pos :]
        if self._ended and not self._cut and rest and mark.startswith(rest):
            self._pos = len(self._buf)
            return True
        return False

    def _string(self, limit: int | None = NAME_LIMIT) -> Scan[str | None]:
        """A whole JSON string, decoded; None when there is none or it is broken."""
        if (yield from self._peek()) != '"':
            return None
        size = 1
        while True:
            while (at := self._pos + size) < len(self._buf):
                char = self._buf[at]
                if char == '"':
                    raw = self._buf[self._pos : at + 1]
                    self._pos = at + 1
                    return _decode_string(raw)
                if char == "\\":
                    size += 2
                    continue
                found = _INSIDE_STRING.search(self._buf, at)
                size = (found.start() if found else len(self._buf)) - self._pos
                if found and found.start() == at:  # a control character
                    size += 1
            if (limit is not None and size > limit) or not (yield from self._more()):
                return None

    def _value(self) -> Scan[str | None]:
        """The raw text of one JSON value; None when there is none."""
        first = yield from self._peek()
        if first and first in "{[":
            pieces: list[str] = []
            return "".join(pieces) if (yield from self._container(pieces.append)) else None
        if first == '"':
            text = yield from self._string(None)
            return None if text is None else json.dumps(text, ensure_ascii=False)
        size = 0
        while True:
            while (at := self._pos + size) < len(self._buf):
                if self._buf[at] not in "+-.0123456789abcdefghijklmnopqrstuvwxyzE":
                    raw = self._buf[self._pos : at]
                    self._pos = at
                    return raw if _is_json(raw) else None
                size += 1
            if size > NAME_LIMIT or not (yield from self._more()):
                return None

    def _container(self, emit: Callable[[str], None]) -> Scan[bool]:
        """Streams a JSON object or array to `emit`, raw line breaks in its strings escaped. False
        when it is broken or cut off: what came before is emitted, the rest is not taken."""
        stack: list[str] = []
        in_string = False
        while True:
            buf, start, at, size = self._buf, self._pos, self._pos, len(self._buf)
            while at < size:
                pattern = _INSIDE_STRING if in_string else _OUTSIDE_STRING
                found = pattern.search(buf, at)
                if found is None:
                    at = size
                    break
                at, char = found.start(), found.group()
                if in_string:
                    if char == "\\":
                        if at + 1 >= size and not self._ended:
                            break
                        at = min(at + 2, size)
                    elif char == '"':
                        in_string = False
                        at += 1
                    else:
                        emit(buf[start:at] + json.dumps(char)[1:-1])
                        at += 1
                        start = at
                elif char == '"':
                    in_string = True
                    at += 1
                elif char in _CLOSER:
                    stack.append(_CLOSER[char])
                    at += 1
                elif stack and char == stack[-1]:
                    stack.pop()
                    at += 1
                    if not stack:
                        emit(buf[start:at])
                        self._pos = at
                        return True
                else:
                    emit(buf[start:at])
                    self._pos = at
                    return False
            emit(buf[start:at])
            self._pos = at
            if not (yield from self._more()):
                emit(self._rest())  # a backslash that waited for its character
                return False


def begins_any(text: str, wholes: Iterable[str]) -> bool:
    """Whether a text that is not empty is the beginning of one of `wholes`, or goes on after it."""
    return bool(text) and any(w.startswith(text) or text.startswith(w) for w in wholes)


def partial_mark(text: str, start: int, marks: tuple[str, ...]) -> int:
    """Where the longest end of `text` that begins one of `marks` starts; its end if none does."""
    best = size = len(text)
    for mark in marks:
        at = text.find(mark[0], max(start, size - len(mark) + 1))
        while 0 <= at < best:
            if mark.startswith(text[at:]):
                best = at
                break
            at = text.find(mark[0], at + 1)
    return best


def whole_text(text: str) -> str:
    """`text`, with U+FFFD for halves of surrogate pairs, which no UTF-8 can hold. JSON can spell
    them (`"\\ud83d"`), and does where a text was cut inside an emoji."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _decode_string(raw: str) -> str | None:
    try:
        value = json.loads(raw, strict=False)
    except ValueError:
        return None
    if not isinstance(value, str):
        return None
    return whole_text(value) if "\\u" in raw else value


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def unwrap_object(text: str) -> str | None:
    """`text` if it is a JSON object, what it says if it is a JSON string of one, else None."""
    try:
        value = json.loads(text)
        if isinstance(value, str):
            text = value
            value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return text if isinstance(value, dict) else None
