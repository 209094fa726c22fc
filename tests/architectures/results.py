"""The page of families: what each run found, kept by the families that were run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

PAGE = Path(__file__).with_name("RESULTS.md")
_HEAD = """# Families of causal language models

Written by `python -m tests.architectures`, and compared with by the tests of this folder: a tiny
random model of every family that `AutoModelForCausalLM` of the installed transformers knows, in
float32 on a CPU.

- **base**: greedy ids of a long and a short prompt, side by side, equal transformers' `generate`;
  `batched` by our engine, or in `compatibility` mode one sequence at a time.
- **adapters**: base, two LoRA adapters and the job's own, mixed, equal peft; where peft leaves out
  weights while it loads (inkling2_text, laguna), the stock model with all of them merged.
- **job**: a LoRA job of two steps ends well.
- **packing**: a job may pack examples, or is refused by name as the model would mix them.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """Of one family: each cell says `yes` or why not."""

    family: str
    base: str = "-"
    adapters: str = "-"
    job: str = "-"
    packing: str = "-"


def keep(row: Row, folder: Path) -> None:
    (folder / f"{row.family}.json").write_text(json.dumps(asdict(row)))


def write_page(folder: Path) -> None:
    rows = [Row(**json.loads(file.read_text())) for file in sorted(folder.glob("*.json"))]
    batched = sum(row.base == "batched" for row in rows)
    compatible = sum(row.base.startswith("compatibility") for row in rows)
    notes: dict[str, int] = {}
    lines = [
        _HEAD,
        f"{len(rows)} families: {batched} batched, {compatible} in compatibility mode.\n",
        "| family | base | adapters | job | packing |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (_cell(text, notes) for text in (row.base, row.adapters, row.job, row.packing))
        lines.append(f"| {row.family} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {note}" for note, number in notes.items())]
    PAGE.write_text("\n".join(lines) + "\n")


def read_page() -> dict[str, Row]:
    """By family."""
    lines = PAGE.read_text().splitlines()
    notes = dict(line.split(". ", 1) for line in lines if line[:1].isdigit() and ". " in line)
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
    rows = (Row(family, *(_full(cell, notes) for cell in cells)) for family, *cells in table)
    return {row.family: row for row in rows}


def _cell(text: str, notes: dict[str, int]) -> str:
    """A long reason is a note under the table."""
    word, _, reason = text.partition(": ")
    if not reason:
        return word
    return f"{word} ({notes.setdefault(reason, len(notes) + 1)})"


def _full(cell: str, notes: dict[str, str]) -> str:
    word, _, number = cell.rstrip(")").partition(" (")
    return f"{word}: {notes[number]}" if number else word
