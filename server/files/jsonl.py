"""The check of line files at upload: every line is a JSON object. What the objects hold is checked
when a job or batch uses the file."""

from __future__ import annotations

import msgspec

from server.errors import InvalidRequest

MAX_LINE_BYTES = 32 * 1024 * 1024
_HINT_CHARS = 10
_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def check_extension(filename: str, api: str, param: str = "file") -> None:
    """A name without an extension says nothing about the content and is let through."""
    dot = filename.rfind(".")
    if dot > 0 and filename[dot:].lower() != ".jsonl":
        raise InvalidRequest(f"Invalid file format for {api} API. Must be .jsonl", param=param)


class LineCheck:
    """Fed with a file's bytes, cut anywhere. Empty lines may stand at the end only."""

    def __init__(self) -> None:
        self.num_lines = 0
        self._number = 0
        self._rest = b""
        self._first_empty: int | None = None

    def feed(self, data: bytes) -> None:
        """Raises InvalidRequest at the first line that is not a JSON object."""
        lines = data.split(b"\n")
        lines[0] = self._rest + lines[0]
        self._rest = lines.pop()
        for line in lines:
            self._check(line)
        if len(self._rest) > MAX_LINE_BYTES:
            raise InvalidRequest(
                f"Line {self._number + 1} is longer than {MAX_LINE_BYTES} bytes.", param="file"
            )

    def finish(self) -> None:
        """Raises InvalidRequest."""
        self._check(self._rest)
        if self.num_lines == 0:
            raise InvalidRequest("The file is empty: it holds no JSON lines.", param="file")

    def _check(self, line: bytes) -> None:
        self._number += 1
        if not line.strip():
            self._first_empty = self._first_empty or self._number
            return
        if self._first_empty is not None:
            raise _not_an_object(self._first_empty, b"")
        try:
            _decoder.decode(line.decode())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _not_an_object(self._number, line) from None
        self.num_lines += 1


def _not_an_object(number: int, line: bytes) -> InvalidRequest:
    start = line.decode("utf-8", "replace").strip()[:_HINT_CHARS]
    return InvalidRequest(
        "Expected file to have JSONL format, where every line is a JSON dictionary. "
        f'Line {number} is not a dictionary (HINT: line starts with: "{start}...").',
        param="file",
    )
