"""The program that reads parquet and arrow files: `python -m server.datasets.columnar FORMAT PATH
BYTES` writes one JSON object a row to its output.

It limits its memory to so many bytes before it opens the file, and ends with REFUSED and a sentence
where it knows what is wrong. A value that is null is one that is not there: columns of structures
have all their fields in every row.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from typing import IO, Any, cast

from templates.example_lines import MAX_LINE_BYTES, ExampleFileError

REFUSED = 3
MAX_ROWS = 20_000_000
_ALWAYS_ROWS = 1_000_000
_MAX_ROWS_PER_BYTE = 4
MAX_COLUMNS = 1000
"""Fields of structures are columns."""
_BATCH_BYTES = 4 * 1024 * 1024
_MAX_BATCH_ROWS = 256
_MAX_DEPTH = 64
_MAX_FOOTER_BYTES = 64 * 1024 * 1024
_MAX_FOOTER_ITEMS = 1_000_000


def unreadable(container: str, memory_bytes: int) -> ExampleFileError:
    """For a program that ended without a word: it was killed, or its memory was used up."""
    return ExampleFileError(
        f"The file cannot be read as {container} with {memory_bytes // 1024**2} MiB of memory: it "
        "is damaged, or its row groups are too large."
    )


def main() -> int:
    container, path, limit = sys.argv[1:]
    memory_bytes = int(limit)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        read = _parquet if container == "parquet" else _arrow
        max_rows = max_rows_of(os.path.getsize(path))
        write(read(path, max_rows), sys.stdout.buffer, max_rows)
    except BrokenPipeError:
        return 0
    except ExampleFileError as error:
        return _refuse(str(error))
    except MemoryError:
        return _refuse(str(unreadable(container, memory_bytes)))
    except (OSError, ValueError, ImportError) as error:
        kind = type(error).__name__
        return _refuse(f"The file cannot be read as {container} ({kind}): it may be damaged.")
    return 0


def _refuse(message: str) -> int:
    sys.stderr.write(message)
    return REFUSED


def max_rows_of(num_bytes: int) -> int:
    """Of a file of this size."""
    return min(MAX_ROWS, max(_ALWAYS_ROWS, _MAX_ROWS_PER_BYTE * num_bytes))


def write(batches: Iterator[Any], output: IO[bytes], max_rows: int) -> None:
    """Rows of record batches, one a line."""
    num_rows = 0
    for batch in batches:
        num_rows += batch.num_rows
        check_num_rows(num_rows, max_rows)
        for row in cast(list[dict[str, Any]], batch.to_pylist()):
            line = json.dumps(without_nulls(row), default=_plain).encode()
            if len(line) > MAX_LINE_BYTES:
                raise ExampleFileError(f"A row is longer than {MAX_LINE_BYTES} bytes.")
            output.write(line + b"\n")
    output.flush()


def check_num_rows(number: int, max_rows: int) -> None:
    if number > max_rows:
        raise ExampleFileError(
            f"The file has more than {max_rows} rows, the most for a file of its size."
        )


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        items = cast(dict[str, Any], value).items()
        return {name: without_nulls(item) for name, item in items if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in cast(list[Any], value)]
    return value


def _plain(value: object) -> str:
    """Of what JSON has no form for: times, decimals."""
    if isinstance(value, bytes):
        raise ExampleFileError("The file has a column of bytes, which is not read: leave it out.")
    return str(value)


def _parquet(path: str, max_rows: int) -> Iterator[Any]:
    from pyarrow import parquet

    file = parquet.ParquetFile(
        path,
        pre_buffer=False,
        buffer_size=1024 * 1024,
        thrift_string_size_limit=_MAX_FOOTER_BYTES,
        thrift_container_size_limit=_MAX_FOOTER_ITEMS,
    )
    about = file.metadata
    if about.num_columns > MAX_COLUMNS:
        raise ExampleFileError(f"The file has more than {MAX_COLUMNS} columns.")
    check_num_rows(about.num_rows, max_rows)
    _check_schema(file.schema_arrow)
    for number in range(about.num_row_groups):
        group = about.row_group(number)
        size = _batch_rows(group.total_byte_size, group.num_rows)
        yield from file.iter_batches(batch_size=size, row_groups=[number], use_threads=False)


def _arrow(path: str, _max_rows: int) -> Iterator[Any]:
    """Arrow's file format, or its stream, which Hugging Face's `datasets` writes."""
    import pyarrow

    with pyarrow.OSFile(path) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        opened = pyarrow.ipc.open_file(source) if is_file else pyarrow.ipc.open_stream(source)
        with opened as reader:
            _check_schema(reader.schema)
            batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
            for batch in batches:
                batch.validate(full=True)
                size = _batch_rows(batch.nbytes, batch.num_rows)
                for at in range(0, batch.num_rows, size):
                    yield batch.slice(at, size)


def _batch_rows(num_bytes: int, num_rows: int) -> int:
    """So many that a batch takes a few megabytes."""
    each = max(num_bytes // max(num_rows, 1), 1)
    return max(1, min(_BATCH_BYTES // each, _MAX_BATCH_ROWS))


def _check_schema(schema: Any) -> None:
    """Its columns and their fields, and how deep they go."""
    num_columns = 0
    level = [field.type for field in schema]
    for _ in range(_MAX_DEPTH):
        num_columns += len(level)
        if num_columns > MAX_COLUMNS * 2:
            raise ExampleFileError(f"The file has more than {MAX_COLUMNS} columns.")
        level = [kind.field(n).type for kind in level for n in range(kind.num_fields)]
        if not level:
            return
    raise ExampleFileError(f"The file's columns are nested more than {_MAX_DEPTH} levels deep.")


if __name__ == "__main__":
    sys.exit(main())
