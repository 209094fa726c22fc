"""Lines of a training file, read one at a time, and what a file is that is not UTF-8."""

from __future__ import annotations

import codecs
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO

MAX_LINE_BYTES = 32 * 1024 * 1024
UTF8_MARK = codecs.BOM_UTF8
"""Some editors write it ahead of a file's first character."""

_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class ExampleFileError(Exception):
    """What is wrong with a file as a whole."""


def read_lines(path: Path) -> Generator[tuple[int, bytes]]:
    """Lines that hold something, with their numbers. Raises ExampleFileError, OSError."""
    with path.open("rb") as file:
        for number, line in lines_of(file):
            if line.strip():
                yield number, line


def lines_of(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """All lines with their numbers. Raises ExampleFileError, OSError."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 2):
        number += 1
        if len(line.rstrip(b"\r\n")) > MAX_LINE_BYTES:
            raise ExampleFileError(f"Line {number} is longer than {MAX_LINE_BYTES} bytes.")
        if number == 1:
            line = without_mark(line)
            if (encoding := wide_encoding(line)) is not None:
                raise ExampleFileError(not_utf8(encoding))
        yield number, line


def without_mark(start: bytes) -> bytes:
    return start.removeprefix(UTF8_MARK)


def not_utf8(encoding: str) -> str:
    return f"The file is not UTF-8: this looks like {encoding}. Save it as UTF-8."


def wide_encoding(start: bytes) -> str | None:
    """Of a file that begins so, when its characters have two or four bytes each."""
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    head = start[:4]
    if len(head) < 4 or 0 not in head:
        return None
    nuls = head.count(0)
    return "UTF-32" if nuls == 3 else "UTF-16" if nuls == 2 and head[0] != head[1] else None


def likely_encoding(line: bytes) -> str | None:
    """Of a line that is not UTF-8; None where there is nothing to say."""
    wide = wide_encoding(line)
    if wide is not None or 0 in line:
        return wide
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        return None
    return "Windows-1252 or Latin-1"
