"""`docs/sdk.md`, from what came of calling every method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

from tests.clients.sdk_trial import WAYS

_HEAD = """\
# The official `openai` package

Every method of openai {version} that asks a server, called for real, against the gateway and the
bundled model, with the package's strict validation of answers (`_strict_response_validation=True`;
but for three of its types: a streamed completion's `finish_reason` cannot be null there, as it is
with OpenAI, a job's status not `paused`, and a stored message's role not `user`).
The columns: the sync client, the async client, `with_raw_response`, `with_streaming_response` and
`stream=True`; `–` where the package has no such way. Written by `tests/clients/test_sdk.py`
(`WRITE_SDK_PAGE=1`), which fails where this page is not true.

{num_works} of {num_all} methods work. The others are refused by an error that names what was asked.

| method | {ways} |
|---|{rule}
"""
_REFUSED = """
## Not here

| methods | answer |
|---|---|
"""


@dataclass(frozen=True)
class Row:
    path: str
    ways: dict[str, bool] = field(default_factory=dict[str, bool])
    """By way: whether it works so, or the package does not have it so. Empty if it is refused."""
    refusal: str = ""


def page(rows: Iterable[Row], version: str) -> str:
    ordered = sorted(rows, key=lambda row: row.path)
    works = [row for row in ordered if row.ways]
    head = _HEAD.format(
        version=version,
        num_works=len(works),
        num_all=len(ordered),
        ways=" | ".join(f"`{way}`" if "=" in way else way for way in WAYS),
        rule="---|" * len(WAYS),
    )
    lines = [
        f"| `{row.path}` | " + " | ".join("works" if row.ways[w] else "–" for w in WAYS) + " |\n"
        for row in works
    ]
    refused = [row for row in ordered if not row.ways]
    rest = [
        f"| {', '.join(f'`{path}`' for path in paths)} | {answer} |\n"
        for answer, paths in _by_answer(refused)
    ]
    return head + "".join(lines) + _REFUSED + "".join(rest)


def _by_answer(rows: list[Row]) -> list[tuple[str, list[str]]]:
    """Rows of one resource that are answered alike are one line."""
    found: list[tuple[str, list[str]]] = []
    for (_, answer), group in groupby(rows, key=lambda row: (_resource(row), _answer(row))):
        found.append((answer, [row.path for row in group]))
    return found


def _resource(row: Row) -> str:
    return row.path.rpartition(".")[0]


def _answer(row: Row) -> str:
    """Without the request line, which holds the method's own ids."""
    code, found, message = row.refusal.partition(": ")
    if not found:
        return row.refusal
    _, asked, rest = message.partition(": ")
    return f"`{code}`: {rest if asked else message}"
