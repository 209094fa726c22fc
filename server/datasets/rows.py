"""The rows of a file, whatever its container, each as the bytes of a JSON object with its number.

Numbers are those that its author counts by: lines of jsonl and txt, elements of a JSON array, and
rows of a table, whose header is none. What is kept at a time is one row, or one small batch.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

from server.datasets.columnar import MAX_COLUMNS, REFUSED, unreadable
from server.datasets.containers import HEAD_BYTES, Container, container_of
from server.datasets.json_rows import JsonRows
from templates.example_lines import (
    MAX_LINE_BYTES,
    ExampleFileError,
    likely_encoding,
    lines_of,
    not_utf8,
    read_lines,
)

MAX_MEMORY_BYTES = 2 * 1024**3
_CHUNK_BYTES = 256 * 1024
_MAX_TOLD_CHARS = 500

Row = tuple[int, bytes]


def container_at(path: Path, filename: str) -> Container:
    with path.open("rb") as file:
        return container_of(filename, file.read(HEAD_BYTES))


def read_rows(
    path: Path, container: Container, memory_bytes: int = MAX_MEMORY_BYTES
) -> Generator[Row]:
    """`memory_bytes`: what reading parquet or arrow may take. Raises ExampleFileError, OSError."""
    match container:
        case Container.JSONL:
            return read_lines(path)
        case Container.JSON:
            return _json_rows(path)
        case Container.CSV:
            return _csv_rows(path)
        case Container.TXT:
            return _texts(path)
        case Container.PARQUET | Container.ARROW:
            return _columnar_rows(path, container, memory_bytes)


def rows_at(path: Path) -> closing[Generator[Row]]:
    """Those of a file under its own name, closed with the block. Raises as `read_rows`."""
    return closing(read_rows(path, container_at(path, path.name)))


def _json_rows(path: Path) -> Generator[Row]:
    rows = JsonRows()
    number = 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            for row in rows.feed(chunk) if chunk else rows.finish():
                number += 1
                yield number, row
            if not chunk:
                return


def _texts(path: Path) -> Generator[Row]:
    for number, line in read_lines(path):
        yield number, _as_json({"text": _decoded(line, number).rstrip("\r\n")})


class _Lines:
    """Lines for the reader of a table, whose rows may span several: a row has the limit of a
    line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.num_bytes = 0
        """Since the last row ended."""

    def __iter__(self) -> Iterator[str]:
        with self._path.open("rb") as file:
            for number, line in lines_of(file):
                self.num_bytes += len(line)
                if self.num_bytes > MAX_LINE_BYTES:
                    raise ExampleFileError(
                        f"The row that ends behind line {number} is longer than {MAX_LINE_BYTES} "
                        "bytes: a quotation mark may not be closed."
                    )
                yield _decoded(line, number)


def _csv_rows(path: Path) -> Generator[Row]:
    """An empty cell is a column that is not there."""
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _Lines(path)
    table = csv.reader(lines, strict=True)
    number = 0
    try:
        names = [name.strip() for name in next(table, [])]
        _check_names(names)
        for cells in table:
            lines.num_bytes = 0
            number += 1
            if not cells:
                continue
            if len(cells) > len(names):
                raise ExampleFileError(
                    f"Row {number} has {len(cells)} cells under {len(names)} columns: a comma or "
                    "quotation mark of a text may not be quoted."
                )
            row = {name: cell for name, cell in zip(names, cells, strict=False) if cell}
            yield number, _as_json(row)
    except csv.Error as error:
        raise ExampleFileError(f"Row {number + 1} cannot be read as CSV: {error}.") from error


def _check_names(names: list[str]) -> None:
    if not any(names):
        raise ExampleFileError("The first line names no columns.")
    if len(names) > MAX_COLUMNS:
        raise ExampleFileError(f"The file has more than {MAX_COLUMNS} columns.")
    if len({name for name in names if name}) < len([name for name in names if name]):
        raise ExampleFileError("The first line names a column twice.")


def _decoded(line: bytes, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        encoding = likely_encoding(line)
        said = not_utf8(encoding) if encoding else "it is not valid UTF-8."
        raise ExampleFileError(f"Line {number}: {said}") from error


def _as_json(row: dict[str, str]) -> bytes:
    return json.dumps(row).encode()


def _columnar_rows(path: Path, container: Container, memory_bytes: int) -> Generator[Row]:
    """By a process of its own, whose memory is limited: the readers of these formats are native
    code, and a small file can unpack to any size."""
    command = [sys.executable, "-m", "server.datasets.columnar", container, path, str(memory_bytes)]
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
    reader = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert reader.stdout is not None, "it was asked for"
    assert reader.stderr is not None, "it was asked for"
    try:
        yield from lines_of(reader.stdout)
        told = reader.stderr.read(_MAX_TOLD_CHARS).decode(errors="replace").strip()
        status = reader.wait()
        if status == REFUSED:
            raise ExampleFileError(told)
        if status != 0:
            raise unreadable(container, memory_bytes)
    finally:
        reader.kill()
        reader.wait()
        reader.stdout.close()
        reader.stderr.close()
