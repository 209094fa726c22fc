"""A training file as token ids and the tokens to learn, held in flat arrays.

Every bad line is found before anything is trained: the error tells the first twenty and a count.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from templates.example_fields import ExampleError
from templates.examples import Example, read_example
from workers.trainer.failures import InvalidTrainingFile, InvalidValidationFile

NUM_LISTED_LINES = 20
_LINES_AT_ONCE = 256


IGNORED = -100
"""A label that is not learned, as in `torch.nn.functional.cross_entropy`."""


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """`labels[i]` is what is to be predicted from the ids before place i, or IGNORED."""

    ids: Sequence[int]
    labels: Sequence[int]
    is_truncated: bool = False


EncodedRow = list[EncodedExample] | ExampleError
"""The examples of one line, or what is wrong with it."""
Encode = Callable[[Sequence[Example]], Sequence[EncodedRow]]
"""Many rows at once, which is faster; the error of one does not hold up the others."""


class EncodedExamples:
    """Examples by index, with the lengths that batches are made of."""

    def __init__(
        self, ids: npt.NDArray[np.int32], labels: npt.NDArray[np.int32], lengths: list[int]
    ) -> None:
        self._ids = ids
        self._labels = labels
        self._starts: list[int] = np.concatenate(([0], np.cumsum(lengths))).tolist()
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def length(self, index: int) -> int:
        return self.lengths[index]

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Ids and labels."""
        start, end = self._starts[index], self._starts[index + 1]
        return self._ids[start:end], self._labels[start:end]


@dataclass(frozen=True, slots=True)
class LoadedFile:
    examples: EncodedExamples
    truncated_lines: tuple[int, ...]
    """Lines whose example was cut to the cutoff."""
    dropped_lines: tuple[int, ...]
    """Lines with nothing left to learn from."""


class _Gathering:
    """What has been read of a file so far."""

    def __init__(self) -> None:
        self._ids: list[npt.NDArray[np.int32]] = []
        self._labels: list[npt.NDArray[np.int32]] = []
        self.truncated: list[int] = []
        self.dropped: list[int] = []
        self.problems: list[tuple[int, str]] = []

    def add(self, line: int, row: EncodedRow) -> None:
        if isinstance(row, ExampleError):
            self.problems.append((line, str(row)))
            return
        if any(example.is_truncated for example in row):
            self.truncated.append(line)
        num_before = len(self._ids)
        for example in row:
            labels = np.asarray(example.labels, dtype=np.int32)
            labels[:1] = IGNORED
            if (labels != IGNORED).any():
                self._ids.append(np.asarray(example.ids, dtype=np.int32))
                self._labels.append(labels)
        if len(self._ids) == num_before:
            self.dropped.append(line)

    def examples(self) -> EncodedExamples:
        empty = np.zeros(0, dtype=np.int32)
        return EncodedExamples(
            np.concatenate([empty, *self._ids]),
            np.concatenate([empty, *self._labels]),
            [len(ids) for ids in self._ids],
        )


def load_file(
    path: Path, encode: Encode, *, is_validation: bool, between_lines: Callable[[], None]
) -> LoadedFile:
    """Reads and encodes every row.

    Raises InvalidTrainingFile or InvalidValidationFile, and whatever `between_lines` raises.
    """
    gathering = _Gathering()
    for number, row in _encoded_lines(path, encode, is_validation):
        between_lines()
        gathering.add(number, row)
    if gathering.problems:
        _refuse(_problem_text(gathering.problems), is_validation)
    examples = gathering.examples()
    if not len(examples):
        _refuse("No example has anything to learn from.", is_validation)
    return LoadedFile(examples, tuple(gathering.truncated), tuple(gathering.dropped))


def listed(lines: Sequence[int]) -> str:
    """`lines 3, 8, 9 and 214 more`"""
    text = ", ".join(map(str, lines[:NUM_LISTED_LINES]))
    more = len(lines) - NUM_LISTED_LINES
    return f"line{'s' if len(lines) > 1 else ''} {text}" + (f" and {more} more" if more > 0 else "")


def _encoded_lines(
    path: Path, encode: Encode, is_validation: bool
) -> Iterator[tuple[int, EncodedRow]]:
    lines = _lines(path, is_validation)
    while chunk := list(itertools.islice(lines, _LINES_AT_ONCE)):
        read = [_read(line) for _, line in chunk]
        encoded = iter(encode([row for row in read if not isinstance(row, ExampleError)]))
        for (number, _), row in zip(chunk, read, strict=True):
            yield number, row if isinstance(row, ExampleError) else next(encoded)


def _read(line: bytes) -> Example | ExampleError:
    try:
        return read_example(line)
    except ExampleError as error:
        return error


def _lines(path: Path, is_validation: bool) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        _refuse(f"The file cannot be read ({type(error).__name__}).", is_validation)


def _problem_text(problems: Sequence[tuple[int, str]]) -> str:
    shown = [f"Example {number}: {text}" for number, text in problems[:NUM_LISTED_LINES]]
    more = len(problems) - NUM_LISTED_LINES
    text = "Invalid file format. " + "; ".join(shown)
    return f"{text}; and {more} more bad lines." if more > 0 else f"{text}."


def _refuse(message: str, is_validation: bool) -> NoReturn:
    if is_validation:
        raise InvalidValidationFile(message, "validation_file")
    raise InvalidTrainingFile(message, "training_file")
