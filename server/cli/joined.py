"""Data sets as files to upload: one as it is, and several as one.

What a file's rows are is for the service to say. Only rows of several formats are turned here, into
the form that is trained on.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, cast

from server.cli.data_sets import DataSet, DataSetError, named_faults
from server.datasets.mixing import Mixing, mix
from server.datasets.prepared import canonical_rows
from server.datasets.rows import rows_at
from templates.dataset_format import DatasetFormat
from workers.contract.parameters import Stage

_JOINED = "joined.jsonl"


@dataclass(frozen=True, slots=True)
class Upload:
    filename: str
    content: io.BufferedIOBase
    layout: Mapping[str, Any]


def are_alike(data_sets: Sequence[DataSet], stage: Stage) -> bool:
    """Whether all have one format, so that the service can read their rows as they are. Raises
    DataSetError, OSError."""
    return len({each.format(stage) for each in data_sets}) <= 1


def upload_of(
    data_sets: Sequence[DataSet],
    max_samples: int | None,
    mixing: Mixing,
    written_in: Stage | None = None,
) -> Upload:
    """A data set's file as it is; of several, or with `max_samples`, the first rows of each, mixed
    into one file. `written_in`: the rows are written in the form that this stage trains on, which
    needs no format. Raises DataSetError, OSError."""
    first, *others = data_sets
    if not others and max_samples is None and written_in is None:
        return Upload(first.path.name, first.path.open("rb"), first.layout)
    if problem := mixing.problem(len(data_sets)) if others else None:
        raise DataSetError(problem)
    if written_in is None:
        readers = [partial(_as_they_are, each, max_samples) for each in data_sets]
    else:
        readers = [
            partial(_turned, each, max_samples, each.format(written_in)) for each in data_sets
        ]
    lines = cast(io.BufferedIOBase, tempfile.TemporaryFile())  # noqa: SIM115
    try:
        lines.writelines(row + b"\n" for row in mix(readers, mixing))
    except BaseException:
        lines.close()
        raise
    lines.seek(0)
    told = next((each.layout for each in data_sets if each.layout), {})
    return Upload(_JOINED, lines, {} if written_in else told)


def _as_they_are(data_set: DataSet, max_samples: int | None) -> Iterator[bytes]:
    """As the service reads them, each in one line: between the elements of JSON a line's end is a
    space. Raises DataSetError."""
    with named_faults(data_set.path), rows_at(data_set.path) as rows:
        for _, row in islice(rows, max_samples):
            yield row.strip().replace(b"\n", b" ")


def _turned(
    data_set: DataSet, max_samples: int | None, layout: DatasetFormat | None
) -> Iterator[bytes]:
    """Raises DataSetError."""
    with named_faults(data_set.path), closing(canonical_rows(data_set.path, layout)) as rows:
        yield from islice(rows, max_samples)
