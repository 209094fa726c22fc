"""Which container a file's rows are in, told by its first bytes and its name."""

from __future__ import annotations

from enum import StrEnum

from templates.example_lines import without_mark

HEAD_BYTES = 4096
"""Of a file, to tell it by."""


class Container(StrEnum):
    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    TXT = "txt"
    PARQUET = "parquet"
    ARROW = "arrow"


EXTENSIONS = {
    ".jsonl": Container.JSONL,
    ".json": Container.JSON,
    ".csv": Container.CSV,
    ".txt": Container.TXT,
    ".parquet": Container.PARQUET,
    ".arrow": Container.ARROW,
}
_AS_NAMED = frozenset({Container.JSONL, Container.CSV, Container.TXT})
_BINARY = frozenset({Container.PARQUET, Container.ARROW})
_MAGIC = (
    (b"PAR1", Container.PARQUET),
    (b"ARROW1", Container.ARROW),
    (b"\xff\xff\xff\xff", Container.ARROW),
)


def extension_of(filename: str) -> str | None:
    """None for a name without one, which says nothing about the content."""
    dot = filename.rfind(".")
    return filename[dot:].lower() if dot > 0 else None


def container_of(filename: str, head: bytes) -> Container:
    """By content where that tells, except that .jsonl, .csv and .txt are what they say. Lines of
    JSON under the name .json are lines of JSON."""
    named = EXTENSIONS.get(extension_of(filename) or "")
    if named is not None and named in _AS_NAMED:
        return named
    for magic, container in _MAGIC:
        if head.startswith(magic):
            return container
    if named is not None and named in _BINARY:
        return named
    starts_list = without_mark(head).lstrip().startswith(b"[")
    return Container.JSON if starts_list else Container.JSONL
