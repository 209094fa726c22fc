"""The incremental scanner under every call parser.

A parser is a generator that reads the output as if it were all there and yields wherever it needs
more text; so a dialect's syntax is written top to bottom, and cutting the output differently cannot
change what is read.

Rules that hold for every dialect:

* Text that may yet become a call is held back only until it is known not to be one; then it is
  content.
* White space between content and a call, between calls, and after the last call is layout and not
  reported. All other text outside calls is content.
* A call starts (`ToolCallStart`) once its name is known and its arguments have begun. Anything that
  fails before is content, marks included.
* What was streamed of a call stays. When a started call breaks or is cut off, its arguments end
  there, and text that does not belong to it is content. Missing closing marks are forgiven.
* Marked calls may name an unknown tool (the caller answers it with an error the model can read);
  dialects without marks take known names only.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from templates.conversation import Tool
from templates.format import ContentDelta, Delta, ReasoningDelta, ToolArgumentsDelta, ToolCallStart

T = TypeVar("T")
Scan = Generator[None, None, T]

SPACE = " \t\r\n"
NAME_LIMIT = 256
"""Longest call header waited for, in characters, before it is taken for content."""

_OUTSIDE_STRING = re.compile(r"[^ \t\r\n,:0-9A-Za-z.+\-]")
_INSIDE_STRING = re.compile(r'["\\\x00-\x1f]')
_NOT_SPACE = re.compile(r"[^ \t\r\n]")
_CLOSER = {"{": "}", "[": "]"}


class PassThrough:
    """Every text is content."""

    def feed(self, text: str) -> Sequence[Delta]:
        return (ContentDelta(text),) if text else ()

    def finish(self) -> Sequence[Delta]:
        return ()


class CallParser(ABC):
    """Tells content from calls. Subclasses read the calls, beginning after one of `markers`.

    `_mark` is where held text starts: as long as it is set, the text from there may still turn out
    to be content, of which at least `_given_back` characters are then no call. `_pos` never lies
    before it.
    """

    markers: tuple[str, ...] = ()

    def __init__(self, tools: tuple[Tool, ...]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._firsts = tuple(dict.fromkeys(marker[0] for marker in self.markers))
        self._buf = ""
        self._pos = 0
        self._mark: int | None = None
        self._given_back = 0
        self._index = -1
        self._after_call = False
        self._ended = False
        self._idle = False
        self._plain: Callable[[str], ContentDelta | ReasoningDelta] = ContentDelta
        self._out: list[Delta] = []
        self._run = self._main()

    def feed(self, text: str) -> Sequence[Delta]:
        # The plain content of an answer takes this way only: no mark can begin in the text, no
        # white space must wait for what follows it.
        if self._idle and text and text[-1] > " ":
            for first in self._firsts:
                if first in text:
                    break
            else:
                return (self._plain(text),)
        if not text:
            return ()
        self._idle = False
        self._buf += text
        next(self._run, None)
        out, self._out = self._out, []
        return out

    def finish(self) -> Sequence[Delta]:
        self._ended = True
        next(self._run, None)
        out, self._out = self._out, []
        return out

    @abstractmethod
    def _calls(self, marker: str) -> Scan[None]:
        """Reads the calls after `marker`, up to where content may go on."""

    def _opening(self) -> Scan[None]:
        """Reads calls that stand without a mark at the start of the output."""
        return
        yield

    # --- content ----------------------------------------------------------------------------------

    def _main(self) -> Scan[None]:
        self._mark = self._pos
        yield from self._opening()
        self._settle()
        while True:
            marker = yield from self._content()
            if marker is None:
                return
            self._pos += len(marker)
            yield from self._calls(marker)
            self._settle()

    def _settle(self) -> None:
        """Gives back as content what was held and proved to be no call."""
        if self._mark is None:
            return
        end = self._mark + self._given_back
        self._content_out(self._buf[self._mark : end])
        self._pos, self._mark, self._given_back = end, None, 0

    def _content(self) -> Scan[str | None]:
        """Reports content up to a marker and stops before it; None when the output has ended."""
        while True:
            if self._after_call:
                yield from self._space()
            at, marker = self._find_marker()
            end = len(self._buf[self._pos : at].rstrip(SPACE)) + self._pos
            self._content_out(self._buf[self._pos : end])
            if marker:
                self._mark, self._given_back = end, at - end + len(marker)
                self._pos = at
                return marker
            self._pos = end
            self._idle = end == len(self._buf) and not self._after_call
            if not (yield from self._more()):
                self._content_out(self._buf[self._pos :])
                self._pos = len(self._buf)
                return None

    def _find_marker(self) -> tuple[int, str]:
        """Where the first marker begins; with none, where one may begin at the end. No marker is
        the beginning of another, or holds another."""
        if not self.markers:
            return len(self._buf), ""
        found = [(at, m) for m in self.markers if (at := self._buf.find(m, self._pos)) >= 0]
        return min(found) if found else (partial_mark(self._buf, self._pos, self.markers), "")

    def _content_out(self, text: str) -> None:
        if not text:
            return
        self._after_call = False
        last = self._out[-1] if self._out else None
        if isinstance(last, ContentDelta):
            self._out[-1] = ContentDelta(last.text + text)
        else:
            self._out.append(ContentDelta(text))

    def _reasoning_out(self, text: str) -> None:
        if not text:
            return
        last = self._out[-1] if self._out else None
        if isinstance(last, ReasoningDelta):
            self._out[-1] = ReasoningDelta(last.text + text)
        else:
            self._out.append(ReasoningDelta(text))

    # --- calls ------------------------------------------------------------------------------------

    def _hold(self) -> None:
        """From here on the text may be a call; if it proves not to be, it is content."""
        self._mark, self._given_back = self._pos, 0 if self._at_end() else 1

    def _start(self, name: str, call_id: str | None = None) -> None:
        self._index += 1
        self._out.append(ToolCallStart(self._index, name, call_id))
        self._mark, self._given_back = None, 0
        self._after_call = True

    def _argue(self, text: str) -> None:
        if not text:
            return
        last = self._out[-1] if self._out else None
        if isinstance(last, ToolArgumentsDelta) and last.index == self._index:
            self._out[-1] = ToolArgumentsDelta(self._index, last.text + text)
        else:
            self._out.append(ToolArgumentsDelta(self._index, text))

    def _arguments(self, name: str, call_id: str | None = None) -> Scan[bool]:
        """Starts the call and streams the JSON object here as its arguments. True when the object
        closed. An object written as a JSON string is unwrapped; null is no arguments."""
        first = yield from self._peek()
        if first == "{":
            self._start(name, call_id)
            return (yield from self._container(self._argue))
        arguments: str | None = None
        if first == '"':
            written = yield from self._string(None)
            arguments = unwrap_object(written or "")
        elif first == "n" and (yield from self._take("null")):
            arguments = "{}"
        if arguments is None:
            return False
        self._start(name, call_id)
        self._argue(arguments)
        return True

    # --- reading ----------------------------------------------------------------------------------

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
                emit(self._buf[self._pos :])
                self._pos = len(self._buf)
                return None

    def _close(self, mark: str) -> Scan[bool]:
        """Takes a closing mark after white space; one that is cut off counts as taken."""
        yield from self._space()
        if (yield from self._take(mark)):
            return True
        rest = self._buf[self._pos :]
        if self._ended and rest and mark.startswith(rest):
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
                if self._pos < len(self._buf):  # a backslash that waited for its character
                    emit(self._buf[self._pos :])
                    self._pos = len(self._buf)
                return False


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


def _decode_string(raw: str) -> str | None:
    try:
        value = json.loads(raw, strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


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
