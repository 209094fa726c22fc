"""Tool-call dialects: how each model family shows tools, writes calls, and is read back.

`base` says what a dialect is, `scanning` how outputs are read, `constraints` how they are bound.
"""

from __future__ import annotations

from templates.dialects.base import Dialect
from templates.dialects.hermes import LING, QWEN
from templates.dialects.react import ReactDialect
from templates.format import FormatError

__all__ = ["DIALECTS", "Dialect", "dialect"]

_ALL: tuple[Dialect, ...] = (ReactDialect(), QWEN, LING)

DIALECTS: dict[str, Dialect] = {entry.name: entry for entry in _ALL}


def dialect(name: str) -> Dialect:
    found = DIALECTS.get(name)
    if found is None:
        raise FormatError(f"There is no tool-call dialect named '{name}'.")
    return found
