"""The table of LLaMA-Factory's names, for the operator to read."""

from __future__ import annotations

from rich.table import Table

from server.config.factory_names import ENGINES, NAMES


def names_table() -> Table:
    table = Table("name", *ENGINES)
    for name, engines in NAMES.items():
        table.add_row(name, *(str(engines[engine]) for engine in ENGINES))
    return table
