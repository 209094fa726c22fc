"""What is wrong with a file's rows, told once for each kind of fault with the lines that have it.

What is kept is bounded, however many rows are bad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from templates.example_fields import shown_name
from templates.example_shapes import UNEXPECTED_FORMAT

NUM_LISTED_LINES = 20
NUM_LISTED_FAULTS = 20
NUM_LISTED_COLUMNS = 20


@dataclass(slots=True)
class Lines:
    """Numbers of lines: the first of them, and how many there are."""

    first: list[int] = field(default_factory=list[int])
    count: int = 0

    def add(self, line: int) -> None:
        self.count += 1
        if len(self.first) < NUM_LISTED_LINES:
            self.first.append(line)

    @property
    def numbers(self) -> str:
        """`3, 8, 9 and 214 more`"""
        text = ", ".join(map(str, self.first))
        more = self.count - len(self.first)
        return f"{text} and {more} more" if more else text

    def __str__(self) -> str:
        return f"line{'s' if self.count > 1 else ''} {self.numbers}"


@dataclass(slots=True)
class IgnoredColumns:
    """Columns that are not trained on, and the rows that have them."""

    names: dict[str, None] = field(default_factory=dict[str, None])
    lines: Lines = field(default_factory=Lines)

    def add(self, line: int, names: Sequence[str]) -> None:
        if not names:
            return
        self.lines.add(line)
        for name in names:
            if len(self.names) > NUM_LISTED_COLUMNS:
                return
            self.names.setdefault(shown_name(name))

    def describe(self, kind: str) -> str | None:
        """None where there are none."""
        if not self.names:
            return None
        listed = ", ".join([f"'{name}'" for name in self.names][:NUM_LISTED_COLUMNS])
        more = " and others" if len(self.names) > NUM_LISTED_COLUMNS else ""
        return (
            f"Columns that are not trained on were ignored in {self.lines.count} {kind} "
            f"example(s): {listed}{more}"
        )


class Faults:
    def __init__(self) -> None:
        self._kinds: dict[str, Lines] = {}
        self._num_lines = 0

    def add(self, line: int, text: str) -> None:
        """Of each line, its first fault."""
        self._num_lines += 1
        if text in self._kinds or len(self._kinds) < NUM_LISTED_FAULTS:
            self._kinds.setdefault(text, Lines()).add(line)

    def __bool__(self) -> bool:
        return self._num_lines > 0

    def describe(self) -> str:
        shown = "; ".join(_describe(text, lines) for text, lines in self._kinds.items())
        hidden = self._num_lines - sum(lines.count for lines in self._kinds.values())
        if hidden:
            shown += f"; and {hidden} more"
        plural = "s" if self._num_lines > 1 else ""
        total = f"({self._num_lines} bad line{plural} in all)"
        if all(text.startswith(UNEXPECTED_FORMAT) for text in self._kinds):
            return f"{shown} {total}"
        return f"Invalid file format. {shown} {total}"


def _describe(text: str, lines: Lines) -> str:
    if text.startswith(UNEXPECTED_FORMAT):
        return f"{text} ({lines})"
    examples = f"Example{'s' if lines.count > 1 else ''} {lines.numbers}"
    if text.startswith("line "):
        return f"{examples} cannot be parsed. Error: {text} ({lines})"
    return f"{examples}, {text}"
