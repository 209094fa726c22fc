"""Files of rows in every container: the same rows come out, and hostile files end early."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from server.datasets.containers import Container, container_of
from server.datasets.json_rows import JsonRows
from server.datasets.prepared import Prepared, prepare_rows
from server.datasets.rows import container_at, read_rows
from server.errors import InvalidRequest
from server.files.checks import file_check
from templates.example_lines import MAX_LINE_BYTES, ExampleFileError
from workers.contract.parameters import Stage

ROWS: list[dict[str, Any]] = [
    {"instruction": f"Say “{n}”,\nplease", "output": f'It is "{n}"', "id": str(n)}
    for n in range(700)
]
CHATS = [{"messages": [{"role": "user", "content": f"Hi {n}"}]} for n in range(12)]


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_json(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows, indent=1, ensure_ascii=False).encode()


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode("utf-8-sig")


def as_parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), sink, row_group_size=100, **options)
    return sink.getvalue()


def as_arrow_file(rows: list[dict[str, Any]]) -> bytes:
    return _ipc(rows, pa.ipc.new_file)


def as_arrow_stream(rows: list[dict[str, Any]]) -> bytes:
    return _ipc(rows, pa.ipc.new_stream)


def _ipc(rows: list[dict[str, Any]], opened: Callable[..., Any]) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    with opened(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=90)
    return sink.getvalue()


WRITERS: dict[str, tuple[str, Callable[[list[dict[str, Any]]], bytes]]] = {
    "jsonl": ("rows.jsonl", as_jsonl),
    "json": ("rows.json", as_json),
    "lines named json": ("rows.json", as_jsonl),
    "csv": ("rows.csv", as_csv),
    "parquet": ("rows.parquet", as_parquet),
    "parquet without a name": ("rows", as_parquet),
    "arrow file": ("rows.arrow", as_arrow_file),
    "arrow stream": ("rows.arrow", as_arrow_stream),
}


def put(folder: Path, content: bytes) -> Path:
    path = folder / "upload"
    path.write_bytes(content)
    return path


def read_all(folder: Path, name: str, content: bytes) -> list[tuple[int, Any]]:
    path = put(folder, content)
    return [(n, json.loads(row)) for n, row in read_rows(path, container_at(path, name))]


@pytest.mark.parametrize("kind", WRITERS)
def test_every_container_holds_the_same_rows(kind: str, tmp_path: Path) -> None:
    name, write = WRITERS[kind]
    assert read_all(tmp_path, name, write(ROWS)) == list(enumerate(ROWS, 1))


@pytest.mark.parametrize("kind", ["json", "parquet", "arrow stream"])
def test_structures_come_out_as_they_went_in(kind: str, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}], "tools": [{"name": "f"}]},
        {"messages": [{"role": "tool", "name": "f"}, {"role": "user", "content": "x"}]},
    ]
    name, write = WRITERS[kind]
    assert read_all(tmp_path, name, write(rows)) == list(enumerate(rows, 1))


def test_lines_of_text_are_rows_by_their_numbers(tmp_path: Path) -> None:
    content = "\ufefffirst\r\n\r\n third \n".encode()
    assert read_all(tmp_path, "a.txt", content) == [
        (1, {"text": "first"}),
        (3, {"text": " third "}),
    ]


def test_an_empty_cell_is_a_column_that_is_not_there(tmp_path: Path) -> None:
    content = b"instruction,input,output\na,,b\n\nc,d\n"
    assert read_all(tmp_path, "a.csv", content) == [
        (1, {"instruction": "a", "output": "b"}),
        (3, {"instruction": "c", "input": "d"}),
    ]


@pytest.mark.parametrize(
    ("name", "head", "container"),
    [
        ("a.jsonl", b"[1]", Container.JSONL),
        ("a.json", b"\xef\xbb\xbf [", Container.JSON),
        ("a.json", b"{", Container.JSONL),
        ("a", b"[", Container.JSON),
        ("a", b"{", Container.JSONL),
        ("a.CSV", b"[", Container.CSV),
        ("a.parquet", b"PAR1", Container.PARQUET),
        ("a.json", b"PAR1", Container.PARQUET),
        ("a.arrow", b"ARROW1\0\0", Container.ARROW),
        ("a", b"\xff\xff\xff\xff", Container.ARROW),
        ("a.parquet", b"{", Container.PARQUET),
    ],
)
def test_a_container_is_told_by_content_and_name(
    name: str, head: bytes, container: Container
) -> None:
    assert container_of(name, head) is container


def test_an_array_cut_anywhere_gives_the_same_rows() -> None:
    rows = [{"a": "é]},[{"}, {"b": [{"c": '\\"'}]}, {}, {"d": 12}]
    content = as_json(rows)
    for cut in range(len(content)):
        reader = JsonRows()
        found = [*reader.feed(content[:cut]), *reader.feed(content[cut:]), *reader.finish()]
        assert [json.loads(row) for row in found] == rows
    reader = JsonRows()
    many = [{"n": n, "text": "x" * (n % 300)} for n in range(3000)]
    content = json.dumps(many).encode()
    pieces = (content[at : at + 1000] for at in range(0, len(content), 1000))
    found = [row for piece in pieces for row in reader.feed(piece)] + [*reader.finish()]
    assert [json.loads(row) for row in found] == many


BAD_ARRAYS = {
    b'[{"a": 1}': "ends within row 2",
    b"[": "ends within row 1",
    b'[{"a": 1} {"b": 2}]': "something else where a comma belongs (row 1)",
    b'[{"a": 1}] x': "something else after its end (row 1)",
    b'[{"a": 1},]': "Row 2 of the JSON array is not valid JSON",
    b'[{"a": tru}]': "Row 1 of the JSON array is not valid JSON",
    b'[{"a": NaN}]': "NaN is not a JSON value",
    b'[{"a": "caf\xe9"}]': "this looks like Windows-1252 or Latin-1",
    b"[" + b"[" * 200_000: "Row 1 is nested too deeply",
    b'[{"a": %s}]' % (b"9" * 5000): "Row 1 has an integer of too many digits",
    '[{"a": 1}]'.encode("utf-16"): "this looks like UTF-16",
}


@pytest.mark.parametrize("content", BAD_ARRAYS, ids=range(len(BAD_ARRAYS)))
def test_a_broken_array_is_refused_with_its_row(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ExampleFileError) as error:
        for _ in read_rows(put(tmp_path, content), Container.JSON):
            pass
    assert BAD_ARRAYS[content] in str(error.value)


def test_lines_of_json_are_checked_at_upload_and_other_containers_are_not() -> None:
    for name, content in (("a.json", b"[oops"), ("a", b"PAR1"), ("a.txt", b"oops")):
        check = file_check("fine-tune", name)
        assert check is not None
        check.feed(content)
        check.finish()
    for name in ("a.json", "a.jsonl", "a"):
        check = file_check("fine-tune", name)
        assert check is not None
        check.feed(b'{"a": 1}')
        check.feed(b"\noops")
        with pytest.raises(InvalidRequest, match="Line 2 is not a dictionary"):
            check.finish()


BAD_TABLES = {
    b"": "The first line names no columns",
    b"a,a\n1,2\n": "names a column twice",
    b"a,b\n1,2,3\n": "Row 1 has 3 cells under 2 columns",
    b'a,b\n1,2\n1,"2"x\n': "Row 2 cannot be read as CSV",
    b"a,b\n1,caf\xe9\n": "Line 2: The file is not UTF-8: this looks like Windows-1252",
    b",".join(b"c%d" % n for n in range(1001)): "more than 1000 columns",
}


@pytest.mark.parametrize("content", BAD_TABLES, ids=range(len(BAD_TABLES)))
def test_a_broken_table_is_refused_with_its_row(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ExampleFileError) as error:
        read_all(tmp_path, "a.csv", content)
    assert BAD_TABLES[content] in str(error.value)


def wide_parquet(num_columns: int) -> bytes:
    return as_parquet([{f"c{n}": "x" for n in range(num_columns)}])


def deep_arrow() -> bytes:
    kind = pa.int32()
    for _ in range(80):
        kind = pa.struct([("a", kind)])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.schema([("a", kind)])):
        pass
    return sink.getvalue()


def swelling_parquet() -> bytes:
    """A few kilobytes that are one cell of 128 MiB."""
    sink = io.BytesIO()
    table = pa.table({"text": pa.array(["x" * (1 << 27)])})
    parquet.write_table(
        table, sink, compression="zstd", use_dictionary=False, write_statistics=False
    )
    assert len(sink.getvalue()) < 100_000
    return sink.getvalue()


HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "parquet that is none": ("a.parquet", lambda: b"PAR1 and more", "cannot be read as parquet"),
    "parquet cut off": (
        "a.parquet",
        lambda: as_parquet(ROWS)[:-20],
        "cannot be read as parquet",
    ),
    "arrow that is none": ("a.arrow", lambda: b"\xff" * 64, "cannot be read as arrow"),
    "arrow cut off": ("a.arrow", lambda: as_arrow_stream(ROWS)[:-900], "cannot be read as arrow"),
    "many columns": ("a.parquet", lambda: wide_parquet(1001), "more than 1000 columns"),
    "deep columns": ("a.arrow", deep_arrow, "nested more than 64 levels deep"),
    "bytes": ("a.parquet", lambda: as_parquet([{"a": b"x"}]), "a column of bytes"),
    "a cell that swells": ("a.parquet", swelling_parquet, "cannot be read as parquet with 500 MiB"),
    "a row that swells": (
        "a.parquet",
        lambda: as_parquet([{"a": "x" * (MAX_LINE_BYTES + 1)}], compression="zstd"),
        f"A row is longer than {MAX_LINE_BYTES} bytes",
    ),
    "a quotation mark left open": (
        "a.csv",
        lambda: b'a,b\n"' + (b"x" * 5000 + b",\n") * (MAX_LINE_BYTES // 5000),
        "a quotation mark may not be closed",
    ),
    "an element left open": (
        "a.json",
        lambda: b'[{"a": "' + b"x" * (MAX_LINE_BYTES + 300_000),
        f"Row 1 is longer than {MAX_LINE_BYTES} bytes",
    ),
    "an element with a fault and much behind it": (
        "a.json",
        lambda: b'[{"a": 1}, {"a" 1}, ' + b'{"a": "xxxxxxxxxxxxxxxxxxxxxxx"}, ' * (1 << 20),
        f"Row 2 is longer than {MAX_LINE_BYTES} bytes, or is not valid JSON: "
        r"Expecting ':' delimiter \(character 6 of the row\)",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_and_not_held(kind: str, tmp_path: Path) -> None:
    name, make, said = HOSTILE[kind]
    path = put(tmp_path, make())
    tracemalloc.start()
    try:
        with pytest.raises(ExampleFileError, match=said):
            for _ in read_rows(path, container_at(path, name), 500 * 1024**2):
                pass
        assert tracemalloc.get_traced_memory()[1] < 12 * MAX_LINE_BYTES
    finally:
        tracemalloc.stop()


def test_a_damaged_parquet_file_ends_its_reader_alone(tmp_path: Path) -> None:
    content = as_parquet(ROWS, compression="none", use_dictionary=False)
    for at in range(40, len(content), len(content) // 6):
        damaged = content[:at] + bytes(255 - b for b in content[at : at + 60]) + content[at + 60 :]
        with suppress(ExampleFileError):
            assert len(read_all(tmp_path, "a.parquet", damaged)) == len(ROWS)


def prepare(folder: Path, name: str, content: bytes) -> tuple[Prepared, list[bytes]]:
    target = folder / "training.jsonl"
    found = prepare_rows(put(folder, content), name, None, target)
    assert [path.name for path in folder.iterdir()] == ["training.jsonl"]
    return found, target.read_bytes().split(b"\n")[:-1]


def test_rows_keep_their_numbers_and_bad_ones_are_told(tmp_path: Path) -> None:
    bad = {**ROWS[1], "output": 7}
    content = as_jsonl([ROWS[0]]) + b"\n" + as_jsonl([bad]) + b"{\n" + as_jsonl([ROWS[2]])
    found, lines = prepare(tmp_path, "a.jsonl", content)
    assert [bool(line) for line in lines] == [True, False, False, False, True]
    assert json.loads(lines[4])["messages"][1]["content"] == 'It is "2"'
    said = found.faults.describe()
    assert "Example 3, the column 'output' must be a string" in said
    assert "Example 4 cannot be parsed. Error: line contains invalid json" in said
    assert found.ignored.describe("training") == (
        "Columns that are not trained on were ignored in 2 training example(s): 'id'"
    )


def test_rows_that_are_read_as_they_are_are_not_written_again(tmp_path: Path) -> None:
    content = as_jsonl(CHATS)
    blob = tmp_path / "upload"
    blob.write_bytes(content)
    node = blob.stat().st_ino
    found = prepare_rows(blob, "a.jsonl", None, tmp_path / "training.jsonl")
    assert not found.faults
    assert (tmp_path / "training.jsonl").stat().st_ino == node
    (tmp_path / "training.jsonl").unlink()
    _, lines = prepare(tmp_path, "a.json", as_json(CHATS))
    assert [json.loads(line) for line in lines] == CHATS


def test_rows_are_read_as_the_method_wants_them(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Say", "output": "It", "label": n % 2, "text": "Say It"} for n in (1, 2)
    ]
    target = tmp_path / "training.jsonl"
    for name, write in (("a.csv", as_csv), ("a.jsonl", as_jsonl)):
        prepare_rows(put(tmp_path, write(rows)), name, None, target, Stage.KTO)
        made = [json.loads(line) for line in target.read_bytes().splitlines()]
        assert [row["label"] for row in made] == [True, False]
        prepare_rows(put(tmp_path, write(rows)), name, None, target, Stage.PT)
        made = [json.loads(line) for line in target.read_bytes().splitlines()]
        assert [row["text"] for row in made] == ["Say It"] * 2


def test_what_is_written_has_a_limit(tmp_path: Path) -> None:
    table, target = put(tmp_path, as_csv(ROWS)), tmp_path / "training.jsonl"
    with pytest.raises(ExampleFileError, match="more than 1000 bytes"):
        prepare_rows(table, "a.csv", None, target, max_bytes=1000)
    assert [*tmp_path.iterdir()] == []


def dictionary_parquet(num_rows: int, value: str | None) -> bytes:
    """A small file, whose rows all point to one value."""
    indices = pa.array([0]).take(pa.array([0] * num_rows)).cast(pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, pa.array([value], pa.string()))
    sink = io.BytesIO()
    parquet.write_table(pa.table({"text": column}), sink, compression="zstd")
    return sink.getvalue()


def test_what_is_written_of_a_small_file_is_limited_by_its_size(tmp_path: Path) -> None:
    content = dictionary_parquet(270, "x" * 1_000_000)
    assert len(content) < 10_000
    with pytest.raises(ExampleFileError, match="more than 268435456 bytes"):
        prepare_rows(put(tmp_path, content), "a.parquet", None, tmp_path / "training.jsonl")
    assert [*tmp_path.iterdir()] == []


def test_a_small_file_has_not_more_than_a_million_rows(tmp_path: Path) -> None:
    with pytest.raises(ExampleFileError, match="more than 1000000 rows"):
        read_all(tmp_path, "a.parquet", dictionary_parquet(1_000_001, "x"))
