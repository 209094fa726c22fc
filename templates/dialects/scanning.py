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

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from templates.conversation import Tool
from templates.dialects.reading import SPACE, Reader, Scan, partial_mark, unwrap_object
from templates.format import ContentDelta, Delta, ReasoningDelta, ToolArgumentsDelta, ToolCallStart


class PassThrough:
    """Every text is content."""

    def feed(self, text: str) -> Sequence[Delta]:
        return (ContentDelta(text),) if text else ()

    def finish(self) -> Sequence[Delta]:
        return ()


class CallParser(Reader, ABC):
    """Tells content from calls. Subclasses read the calls, beginning after one of `markers`.

    As long as `_mark` is set, the text from there may still turn out to be content, of which at
    least `_given_back` characters are then no call.
    """

    markers: tuple[str, ...] = ()

    def __init__(self, tools: tuple[Tool, ...]) -> None:
        super().__init__()
        self._tools = {tool.name: tool for tool in tools}
        self._firsts = tuple(dict.fromkeys(marker[0] for marker in self.markers))
        self._given_back = 0
        self._index = -1
        self._after_call = False
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
        found = [(hit, m) for m in self.markers if (hit := self._buf.find(m, self._pos)) >= 0]
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
