"""The incremental scanner under every call parser.

A parser is a generator that reads the output as if it were all there and yields wherever it needs
more text; so a dialect's syntax is written top to bottom, and cutting the output differently cannot
change what is read.

Rules that hold for every dialect:

* Text that may yet become a call is held back only until it is known not to be one; then it is
  content.
* Outside calls everything is content, but for white space that is layout: where no text is beside
  it (ahead of the first call, between calls, after the last one), and the line break that separates
  a text from a call.
* A call starts (`ToolCallStart`) once its name is known and its arguments have begun. Anything that
  fails before is content, marks included.
* What was streamed of a call stays. When a started call breaks or is cut off, its arguments end
  there, and text that does not belong to it is content. Missing closing marks are forgiven.
* Where the output was cut by its length, the beginning of a call that it ends with is no content: a
  call without arguments so far is not reported, and no mark is shown.
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

    def finish(self, cut: bool = False) -> Sequence[Delta]:
        return ()


class CallParser(Reader, ABC):
    """Tells content from calls. Subclasses read the calls, beginning after one of `markers`.

    As long as `_mark` is set, the text from there may still turn out to be content, of which at
    least `_given_back` characters are then no call.
    """

    markers: tuple[str, ...] = ()
    max_separator = 1
    """How many line breaks the format writes between a text and a call."""

    def __init__(self, tools: tuple[Tool, ...]) -> None:
        super().__init__()
        self._tools = {tool.name: tool for tool in tools}
        self._firsts = tuple(dict.fromkeys(marker[0] for marker in self.markers))
        self._given_back = 0
        self._index = -1
        self._after_call = False
        self._only_space = True
        """Whether no text has come since the last call, or at all."""
        self._idle = False
        self._plain: Callable[[str], ContentDelta | ReasoningDelta] = ContentDelta
        self._out: list[Delta] = []
        self._run = self._main()

    def feed(self, text: str) -> Sequence[Delta]:
        # The plain content of an answer takes this way only: no mark can begin in the text, no
        # line break must wait for what follows it.
        if self._idle and text and text[-1] != "\n":
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

    def finish(self, cut: bool = False) -> Sequence[Delta]:
        self._ended = True
        self._cut = cut
        if cut and self._mark is not None and self._is_call():
            self._run.close()
            return ()
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

    def _begins_bare(self, held: str) -> bool:
        """Whether an output that begins with `held` would go on as a call without a mark."""
        return False

    def _is_call(self) -> bool:
        """Whether the text held now is a call, as far as it goes."""
        return (
            not self._in_opening or self._index >= 0 or self._begins_bare(self._buf[self._mark :])
        )

    def _main(self) -> Scan[None]:
        self._mark = self._pos
        self._in_opening = True
        yield from self._opening()
        self._in_opening = False
        if self._is_cut_off():
            return
        self._settle()
        while True:
            marker = yield from self._content()
            if marker is None:
                return
            self._pos += len(marker)
            yield from self._calls(marker)
            if self._is_cut_off():
                return
            self._settle()

    def _is_cut_off(self) -> bool:
        """Whether the output was cut inside a call that has started; what is left is its marks'."""
        return self._cut and self._mark is None

    def _settle(self) -> None:
        """Gives back as content what was held and proved to be no call."""
        if self._mark is None:
            return
        end = self._mark + self._given_back
        self._content_out(self._mark + self._separator(), end)
        self._pos, self._mark, self._given_back = end, None, 0

    def _content(self) -> Scan[str | None]:
        """Reports content up to a marker and stops before it; None when the output has ended."""
        while True:
            at, marker = self._find_marker()
            begin, end = self._text_before(at)
            self._content_out(begin, end)
            if marker:
                self._mark, self._given_back = end, at - end + len(marker)
                self._pos = at
                return marker
            self._pos = end
            self._idle = end == len(self._buf) and not self._only_space
            num_held = at - end
            if not (yield from self._more()):
                self._end_content(self._pos + num_held)
                return None

    def _text_before(self, at: int) -> tuple[int, int]:
        """What is content of the text up to `at`, where a mark may begin: line breaks ahead of it
        would be the call's, and white space without text beside it may be."""
        begin = self._pos
        if not self._buf[begin:at].strip(SPACE):
            if self._only_space:
                return begin, begin
        else:
            begin += self._separator()
        end = at
        while end > begin and at - end < self.max_separator and self._buf[end - 1] == "\n":
            end -= 1
        return begin, end

    def _separator(self) -> int:
        """The size of the line break between a call and the text after it."""
        start = self._pos if self._mark is None else self._mark
        return self._after_call and self._buf.startswith("\n", start)

    def _end_content(self, at: int) -> None:
        """At the end of the output: from `at` on there is the beginning of a mark, if anything."""
        rest, partial = self._buf[self._pos :], self._buf[at:]
        in_line = not self._only_space and self._buf[at - 1 : at] != "\n"
        is_call = self._cut and partial and not (in_line and partial[0].isalpha())
        if not is_call and (rest.strip(SPACE) or not self._after_call):
            self._content_out(self._pos + self._separator(), len(self._buf))
        self._pos = len(self._buf)

    def _find_marker(self) -> tuple[int, str]:
        """Where the first marker begins; with none, where one may begin at the end. No marker is
        the beginning of another, or holds another."""
        if not self.markers:
            return len(self._buf), ""
        found = [(hit, m) for m in self.markers if (hit := self._buf.find(m, self._pos)) >= 0]
        return min(found) if found else (partial_mark(self._buf, self._pos, self.markers), "")

    def _content_out(self, begin: int, end: int) -> None:
        """Reports the text between two places of the buffer."""
        if begin < end:
            self._after_call = self._only_space = False
            self._text_out(ContentDelta, begin, end)

    def _reasoning_out(self, begin: int, end: int) -> None:
        if begin < end:
            self._text_out(ReasoningDelta, begin, end)

    def _text_out(
        self, kind: type[ContentDelta] | type[ReasoningDelta], begin: int, end: int
    ) -> None:
        text, behind = self._buf[begin:end], len(self._buf) - end
        last = self._out[-1] if self._out else None
        if isinstance(last, kind) and last.behind == len(self._buf) - begin:
            self._out[-1] = kind(last.text + text, behind)
        else:
            self._out.append(kind(text, behind))

    def _hold(self) -> None:
        """From here on the text may be a call; if it proves not to be, it is content."""
        self._mark, self._given_back = self._pos, 0 if self._at_end() else 1

    def _start(self, name: str, call_id: str | None = None) -> None:
        self._index += 1
        self._out.append(ToolCallStart(self._index, name, call_id))
        self._mark, self._given_back = None, 0
        self._after_call = self._only_space = True

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
