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

from templates.examples import Example, ExampleError, read_example
from workers.trainer.failures import InvalidTrainingFile, InvalidValidationFile

NUM_LISTED_LINES = 20
_LINES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """`trained[i]` tells whether `ids[i]` is to be predicted from the ids before it."""

    ids: Sequence[int]
    trained: Sequence[bool]


Encode = Callable[[Sequence[Example]], Sequence[EncodedExample | ExampleError]]
"""Many at once, which is faster; the error of one does not hold up the others."""


class EncodedExamples:
    """Examples by index, with the lengths that batches are made of."""

    def __init__(
        self, ids: npt.NDArray[np.int32], trained: npt.NDArray[np.bool_], lengths: list[int]
    ) -> None:
        self._ids = ids
        self._trained = trained
        self._starts = np.concatenate(([0], np.cumsum(lengths))).tolist()
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def length(self, index: int) -> int:
        return self.lengths[index]

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        start, end = self._starts[index], self._starts[index + 1]
        return self._ids[start:end], self._trained[start:end]


@dataclass(frozen=True, slots=True)
class LoadedFile:
    examples: EncodedExamples
    num_lines: int
    truncated_lines: tuple[int, ...] = ()
    """Lines whose example was cut at the cutoff."""
    dropped_lines: tuple[int, ...] = ()
    """Lines with nothing left to learn from."""


@dataclass(slots=True)
class _Gathered:
    ids: list[npt.NDArray[np.int32]]
    trained: list[npt.NDArray[np.bool_]]

    def add(self, ids: Sequence[int], trained: Sequence[bool]) -> None:
        flags = np.asarray(trained, dtype=np.bool_)
        flags[0] = False
        self.ids.append(np.asarray(ids, dtype=np.int32))
        self.trained.append(flags)

    def examples(self) -> EncodedExamples:
        lengths = [len(ids) for ids in self.ids]
        if not lengths:
            empty = np.zeros(0, dtype=np.int32)
            return EncodedExamples(empty, empty.astype(np.bool_), [])
        return EncodedExamples(np.concatenate(self.ids), np.concatenate(self.trained), lengths)


def load_file(
    path: Path,
    encode: Encode,
    *,
    cutoff_len: int,
    split_long: bool,
    is_validation: bool,
    between_lines: Callable[[], None],
) -> LoadedFile:
    """Encodes every row. Longer ones than `cutoff_len` are cut at the end, or with `split_long`
    (text, where any part is as good as the first) into pieces.

    Raises InvalidTrainingFile or InvalidValidationFile, and whatever `between_lines` raises.
    """
    gathered = _Gathered([], [])
    truncated: list[int] = []
    dropped: list[int] = []
    problems: list[tuple[int, str]] = []
    num_lines = 0
    for number, example in _encoded_lines(path, encode, is_validation):
        between_lines()
        num_lines += 1
        if isinstance(example, ExampleError):
            problems.append((number, str(example)))
            continue
        if len(example.ids) > cutoff_len and not split_long:
            truncated.append(number)
        pieces = _pieces(example, cutoff_len, split_long)
        learned = [piece for piece in pieces if any(piece.trained[1:])]
        if not learned:
            dropped.append(number)
        for piece in learned:
            gathered.add(piece.ids, piece.trained)
    if problems:
        _refuse(_problem_text(problems), is_validation)
    examples = gathered.examples()
    if not len(examples):
        _refuse("No example has anything to learn from.", is_validation)
    return LoadedFile(examples, num_lines, tuple(truncated), tuple(dropped))


def listed(lines: Sequence[int]) -> str:
    """`lines 3, 8, 9 and 214 more`"""
    text = ", ".join(map(str, lines[:NUM_LISTED_LINES]))
    more = len(lines) - NUM_LISTED_LINES
    return f"line{'s' if len(lines) > 1 else ''} {text}" + (f" and {more} more" if more > 0 else "")


def _encoded_lines(
    path: Path, encode: Encode, is_validation: bool
) -> Iterator[tuple[int, EncodedExample | ExampleError]]:
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


def _pieces(example: EncodedExample, cutoff_len: int, split: bool) -> list[EncodedExample]:
    if len(example.ids) <= cutoff_len:
        return [example]
    starts = range(0, len(example.ids), cutoff_len) if split else (0,)
    return [
        EncodedExample(example.ids[at : at + cutoff_len], example.trained[at : at + cutoff_len])
        for at in starts
    ]


def _problem_text(problems: Sequence[tuple[int, str]]) -> str:
    shown = [f"Example {number}: {text}" for number, text in problems[:NUM_LISTED_LINES]]
    more = len(problems) - NUM_LISTED_LINES
    text = "Invalid file format. " + "; ".join(shown)
    return f"{text}; and {more} more bad lines." if more > 0 else f"{text}."


def _refuse(message: str, is_validation: bool) -> NoReturn:
    if is_validation:
        raise InvalidValidationFile(message, "validation_file")
    raise InvalidTrainingFile(message, "training_file")
