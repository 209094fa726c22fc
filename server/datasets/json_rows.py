"""The rows of one JSON array, told apart while it is read."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator

from templates.example_lines import (
    MAX_LINE_BYTES,
    UTF8_MARK,
    ExampleFileError,
    likely_encoding,
    not_utf8,
    wide_encoding,
)

_SPACE = re.compile(r"[ \t\r\n]*")
_FIRST_TRY_CHARS = 64 * 1024


class JsonRows:
    """Fed with a file's bytes, cut anywhere. A row that has not ended is tried again each time what
    is there has doubled, so that its time is linear."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder(parse_constant=_refuse_constant)
        self._text = ""
        self._at = 0
        """In `_text`, what has been taken."""
        self._pieces: list[str] = []
        """Behind `_text`."""
        self._num_pieces = 0
        self._wanted = 0
        """Characters to have before the next try."""
        self._fault = ""
        """Why the last try at a row found no end."""
        self._state = "start"
        self._is_first = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The rows that have ended. Raises ExampleFileError."""
        if self._is_first and data:
            self._is_first = False
            if (encoding := wide_encoding(data)) is not None:
                raise ExampleFileError(not_utf8(encoding))
            data = data.removeprefix(UTF8_MARK)
        self._add(self._decoded(data, final=False))
        if self._num_pieces + len(self._text) - self._at >= self._wanted:
            yield from self._take(final=False)

    def finish(self) -> Iterator[bytes]:
        """Raises ExampleFileError."""
        self._add(self._decoded(b"", final=True))
        yield from self._take(final=True)
        if self._state != "ended":
            raise ExampleFileError(f"The JSON array ends within row {self.num_rows + 1}.")

    def _decoded(self, data: bytes, *, final: bool) -> str:
        try:
            return self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            encoding = likely_encoding(data)
            said = not_utf8(encoding) if encoding else "The file is not valid UTF-8."
            raise ExampleFileError(f"Row {self.num_rows + 1}: {said}") from error

    def _add(self, text: str) -> None:
        self._pieces.append(text)
        self._num_pieces += len(text)

    def _take(self, *, final: bool) -> Iterator[bytes]:
        self._text = self._text[self._at :] + "".join(self._pieces)
        self._at, self._pieces, self._num_pieces = 0, [], 0
        while (row := self._next(final=final)) is not None:
            self._wanted = 0
            yield row
        left = len(self._text) - self._at
        self._check_length(left)
        self._wanted = max(2 * left, _FIRST_TRY_CHARS)

    def _check_length(self, length: int) -> None:
        if length > MAX_LINE_BYTES:
            raise ExampleFileError(
                f"Row {self.num_rows + 1} is longer than {MAX_LINE_BYTES} bytes{self._fault}."
            )

    def _skip(self) -> str:
        """The next character that is no space, or nothing where there is none yet."""
        found = _SPACE.match(self._text, self._at)
        assert found is not None, "it matches nothing, too"
        self._at = found.end()
        return self._text[self._at : self._at + 1]

    def _next(self, *, final: bool) -> bytes | None:
        while char := self._skip():
            match self._state, char:
                case "start", "[":
                    self._state = "first"
                case ("first", "]") | ("between", "]"):
                    self._state = "ended"
                case "between", ",":
                    self._state = "row"
                case (("first" | "row"), _):
                    return self._row(final=final)
                case _:
                    place = "after its end" if self._state == "ended" else "where a comma belongs"
                    raise ExampleFileError(
                        f"The JSON array has something else {place} (row {self.num_rows})."
                    )
            self._at += 1
        return None

    def _row(self, *, final: bool) -> bytes | None:
        try:
            _, end = self._json.raw_decode(self._text, self._at)
        except RecursionError as error:
            raise ExampleFileError(f"Row {self.num_rows + 1} is nested too deeply.") from error
        except json.JSONDecodeError as error:
            place = error.pos - self._at + 1
            self._fault = f", or is not valid JSON: {error.msg} (character {place} of the row)"
            if not final:
                return None
            self._check_length(len(self._text) - self._at)
            raise ExampleFileError(
                f"Row {self.num_rows + 1} of the JSON array is not valid JSON: {error.msg}."
            ) from error
        except ValueError as error:
            # The one other thing that Python's reader refuses: see `sys.set_int_max_str_digits`.
            raise ExampleFileError(
                f"Row {self.num_rows + 1} has an integer of too many digits."
            ) from error
        self._fault = ""
        if end == len(self._text) and not final:
            return None
        row = self._text[self._at : end].encode()
        self._check_length(len(row))
        self._at = end
        self._state = "between"
        self.num_rows += 1
        return row


def _refuse_constant(name: str) -> None:
    raise ExampleFileError(f"{name} is not a JSON value.")
