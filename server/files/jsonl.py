"""The check of line files at upload: every line is a JSON object. What the objects hold is checked
when a job or batch uses the file."""

from __future__ import annotations

import msgspec

from server.errors import InvalidRequest
from templates.example_lines import (
    MAX_LINE_BYTES,
    likely_encoding,
    not_utf8,
    wide_encoding,
    without_mark,
)
from templates.example_shapes import whole_file_advice

_HINT_CHARS = 10
_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


class LineCheck:
    """Fed with a file's bytes, cut anywhere; blocks for as long as their lines take to read. Empty
    lines may stand at the end only."""

    def __init__(self) -> None:
        self.num_lines = 0
        self._number = 0
        self._rest: list[bytes] = []
        """Pieces of the line that has not ended."""
        self._num_rest = 0
        self._first_empty: int | None = None

    def feed(self, data: bytes) -> None:
        """Raises InvalidRequest at the first line that is not a JSON object."""
        first, *others = data.split(b"\n")
        self._hold(first)
        for line in others:
            self._check(b"".join(self._rest))
            self._rest, self._num_rest = [], 0
            self._hold(line)

    def finish(self) -> None:
        """Raises InvalidRequest."""
        self._check(b"".join(self._rest))
        if self.num_lines == 0:
            raise InvalidRequest("The file is empty: it holds no JSON lines.", param="file")

    def _hold(self, piece: bytes) -> None:
        self._rest.append(piece)
        self._num_rest += len(piece)
        if self._num_rest > MAX_LINE_BYTES:
            raise InvalidRequest(
                f"Line {self._number + 1} is longer than {MAX_LINE_BYTES} bytes.", param="file"
            )

    def _check(self, line: bytes) -> None:
        self._number += 1
        if self._number == 1:
            line = without_mark(line)
            if (encoding := wide_encoding(line)) is not None:
                raise InvalidRequest(not_utf8(encoding), param="file")
        if not line.strip():
            self._first_empty = self._first_empty or self._number
            return
        if self._first_empty is not None:
            raise _not_an_object(self._first_empty, b"")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise _not_utf8(self._number, line) from None
        try:
            _decoder.decode(text)
        except msgspec.DecodeError:
            raise _not_an_object(self._number, line) from None
        except RecursionError:
            raise InvalidRequest(
                f"Line {self._number} is nested too deeply.", param="file"
            ) from None
        self.num_lines += 1


def _not_utf8(number: int, line: bytes) -> InvalidRequest:
    if (encoding := likely_encoding(line)) is not None:
        return InvalidRequest(f"Line {number}: {not_utf8(encoding)}", param="file")
    return InvalidRequest(f"Line {number} is not valid UTF-8.", param="file")


def _not_an_object(number: int, line: bytes) -> InvalidRequest:
    start = line.decode().strip()[:_HINT_CHARS]
    advice = whole_file_advice(line) if number == 1 else None
    return InvalidRequest(
        "Expected file to have JSONL format, where every line is a JSON dictionary. "
        f'Line {number} is not a dictionary (HINT: line starts with: "{start}..."'
        f"{'' if advice is None else f'; {advice}'}).",
        param="file",
    )
