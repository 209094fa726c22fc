"""What a benchmark found, shown at once and kept for the table of a whole run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

FILE_VARIABLE = "TUNEYARD_BENCH_FINDINGS"
"""Names the file that findings are appended to, if set."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    ours: float
    peer: str
    """With its version."""
    theirs: float
    ratio: float
    """Ours to theirs, as the benchmark defines it."""
    target: str | None = None


def record(finding: Finding) -> None:
    target = f"   ({finding.target})" if finding.target else ""
    sys.stdout.write(
        f"{finding.what:44} {number(finding.ours):>8}   {finding.peer} {number(finding.theirs):>8}"
        f"   ratio {finding.ratio:.2f}{target}\n"
    )
    if path := os.environ.get(FILE_VARIABLE):
        with Path(path).open("ab") as file:
            file.write(msgspec.json.encode(finding) + b"\n")


def number(value: float) -> str:
    """Three digits that count, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
