"""Tables of what a command lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table


def show(heads: Sequence[str], rows: Iterable[Sequence[str | None]]) -> None:
    """Prints a table. The first column, which other commands take, is whole on any terminal."""
    table = Table()
    for number, head in enumerate(heads):
        table.add_column(head, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(cell or "" for cell in row))
    Console().print(table, markup=False)


def minute(at: int) -> str:
    """Of this machine's clock, as `date` shows it."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M")
