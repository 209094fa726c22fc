"""The table of LLaMA-Factory's names, for the operator to read."""

from __future__ import annotations

from rich.table import Table

from server.config.factory_names import NAMES, Only, Refused


def names_table() -> Table:
    """Engines that treat a name alike share a line."""
    table = Table("name", "is", "otherwise", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for name, engines in NAMES.items():
        alike: dict[str, list[str]] = {}
        for engine, treatment in engines.items():
            alike.setdefault(str(treatment), []).append(engine)
        whys = {t.why for t in engines.values() if isinstance(t, Refused | Only)}
        if len(alike) == 1:
            meaning = next(iter(alike))
        else:
            meaning = "; ".join(f"{', '.join(found)}: {what}" for what, found in alike.items())
        table.add_row(name, meaning, "; ".join(sorted(whys)))
    return table
