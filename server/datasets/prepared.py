"""A file as its author has it, written as the JSON lines that are trained on.

Row N of the file is line N of what is written, so whoever reads that tells of rows by the author's
own numbers; a row that cannot be turned leaves its line empty, and its fault is kept. A file whose
rows are read as they are is not written again.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from server.datasets.containers import Container
from server.datasets.rows import Row, container_at, read_rows, rows_at
from templates.dataset_format import DatasetFormat
from templates.dataset_rows import canonical_row, used_columns
from templates.dataset_shapes import NUM_LOOKED_AT, recognise
from templates.example_faults import Faults, IgnoredColumns
from templates.example_fields import ExampleError, JsonObject, unknown_fields
from templates.example_lines import ExampleFileError
from templates.examples import read_row
from workers.contract.parameters import Stage

MAX_WRITTEN_BYTES = 8 * 1024**3
_ALWAYS_WRITTEN_BYTES = 256 * 1024**2
_MAX_GROWTH = 20
"""What is written of a file, per byte of it: a small one can unpack to any size."""
_LOOKED_AT_BYTES = 4 * 1024**2


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is to be told of the rows before they are read."""

    faults: Faults = field(default_factory=Faults)
    ignored: IgnoredColumns = field(default_factory=IgnoredColumns)


def prepare_rows(
    source: Path,
    filename: str,
    dataset: DatasetFormat | None,
    target: Path,
    stage: Stage = Stage.SFT,
    max_bytes: int = MAX_WRITTEN_BYTES,
) -> Prepared:
    """Leaves the rows of `source` at `target`, and removes `source`. `dataset` None: as the first
    rows' columns say, and what `stage` wants of them. Raises ExampleFileError, OSError."""
    container = container_at(source, filename)
    max_bytes = min(max_bytes, max(_ALWAYS_WRITTEN_BYTES, _MAX_GROWTH * source.stat().st_size))
    try:
        with closing(read_rows(source, container)) as rows:
            first = _first(rows)
            if dataset is None:
                dataset = _recognised(first, stage)
            if dataset is not None or container is not Container.JSONL:
                return _write(itertools.chain(first, rows), dataset, target, max_bytes)
        source.replace(target)
        return Prepared()
    finally:
        source.unlink(missing_ok=True)


def format_of(path: Path, stage: Stage = Stage.SFT) -> DatasetFormat | None:
    """As the columns of the first rows say. None: they are read as they are. Raises
    ExampleFileError, OSError."""
    with rows_at(path) as rows:
        return _recognised(_first(rows), stage)


def canonical_rows(path: Path, dataset: DatasetFormat | None) -> Generator[bytes]:
    """The rows of a file in the form that is trained on, each in one line. Raises ExampleFileError,
    for a row that cannot be turned too, and OSError."""
    with rows_at(path) as rows:
        for number, line in rows:
            try:
                row = read_row(line)
                yield json.dumps(row if dataset is None else canonical_row(row, dataset)).encode()
            except ExampleError as error:
                raise ExampleFileError(f"Row {number}: {error}.") from error


def _recognised(first: Iterable[Row], stage: Stage) -> DatasetFormat | None:
    return recognise(_readable(first), pretraining=stage is Stage.PT, labelled=stage is Stage.KTO)


def _write(
    rows: Iterable[Row], dataset: DatasetFormat | None, target: Path, max_bytes: int
) -> Prepared:
    prepared = Prepared()
    beside = target.with_name(f"{target.name}.unfinished")
    try:
        with beside.open("wb") as file:
            for line in _numbered(rows):
                written = b"" if line is None else _turned(*line, dataset, prepared)
                file.write(written + b"\n")
                if file.tell() > max_bytes:
                    raise ExampleFileError(
                        f"The rows take more than {max_bytes} bytes, the most for this file."
                    )
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return prepared


def _first(rows: Iterator[Row]) -> list[Row]:
    """Those that the shape is told by: fewer where they are long."""
    first: list[Row] = []
    num_bytes = 0
    for row in itertools.islice(rows, NUM_LOOKED_AT):
        first.append(row)
        num_bytes += len(row[1])
        if num_bytes > _LOOKED_AT_BYTES:
            break
    return first


def _readable(rows: Iterable[Row]) -> Iterator[tuple[int, JsonObject]]:
    for number, line in rows:
        try:
            yield number, read_row(line)
        except ExampleError:
            continue


def _numbered(rows: Iterable[Row]) -> Iterator[Row | None]:
    """A row in the place of its number, None in the places between."""
    place = 0
    for number, line in rows:
        yield from itertools.repeat(None, number - place - 1)
        place = number
        yield number, line


def _turned(number: int, line: bytes, dataset: DatasetFormat | None, prepared: Prepared) -> bytes:
    try:
        row = read_row(line)
        if dataset is None:
            return json.dumps(row).encode()
        made = canonical_row(row, dataset)
    except ExampleError as error:
        prepared.faults.add(number, str(error))
        return b""
    prepared.ignored.add(number, unknown_fields(row, used_columns(dataset)))
    return json.dumps(made).encode()
