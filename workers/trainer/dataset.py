"""A training file as token ids and the tokens to learn, held in flat arrays.

Every bad line is found before anything is trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import numpy as np
import numpy.typing as npt
import torch

from templates.example_faults import Faults, Lines
from templates.example_fields import ExampleError
from templates.example_lines import ExampleFileError, read_lines
from templates.examples import Example
from workers.trainer.failures import InvalidTrainingFile, InvalidValidationFile

_LINES_AT_ONCE = 256


IGNORED = -100
"""A label that is not learned, as in `torch.nn.functional.cross_entropy`."""


@dataclass(frozen=True, slots=True)
class EncodedSequence:
    """`labels[i]` is what is to be predicted from the ids before place i, or IGNORED."""

    ids: Sequence[int]
    labels: Sequence[int]
    is_truncated: bool = False


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """What is learned from together: one sequence, or a chosen and a rejected one, or an answer and
    a mismatched one. All examples of a file have the same number."""

    sequences: tuple[EncodedSequence, ...]
    value: float = 0.0
    """What a stage keeps beside them, such as a label."""

    @property
    def is_truncated(self) -> bool:
        return any(sequence.is_truncated for sequence in self.sequences)


EncodedRow = list[EncodedExample] | ExampleError
"""The examples of one line, or what is wrong with it."""
Sequence32 = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
"""Ids and labels, of equal length."""


class RowReader(Protocol):
    """What a stage knows of lines."""

    def read(self, line: bytes) -> Example: ...
    def encode(self, rows: Sequence[Example], cutoff_len: int) -> list[EncodedRow]: ...


class EncodedExamples:
    """Examples by index, with the lengths that batches are made of."""

    def __init__(self, examples: Sequence[tuple[Sequence32, ...]], values: Sequence[float]) -> None:
        empty = np.zeros(0, dtype=np.int32)
        flat = [sequence for example in examples for sequence in example]
        self._ids = np.concatenate([empty, *(ids for ids, _ in flat)])
        self._labels = np.concatenate([empty, *(labels for _, labels in flat)])
        self._starts: list[int] = np.cumsum([0, *(len(ids) for ids, _ in flat)]).tolist()
        self.num_each = len(examples[0]) if examples else 1
        """Sequences of an example."""
        self.values = list(values)
        self.references: torch.Tensor | None = None
        """[examples, sequences] log-probabilities by the reference, where the stage needs them."""
        self.lengths = [len(e) * max(len(ids) for ids, _ in e) for e in examples]
        """Of each example: tokens with its sequences padded to the longest of them."""

    def __len__(self) -> int:
        return len(self.lengths)

    def sequences(self, index: int) -> list[Sequence32]:
        first = index * self.num_each
        return [self._sequence(first + number) for number in range(self.num_each)]

    def subset(self, indices: Sequence[int]) -> EncodedExamples:
        chosen = [tuple(self.sequences(index)) for index in indices]
        return EncodedExamples(chosen, [self.values[index] for index in indices])

    def _sequence(self, number: int) -> Sequence32:
        start, end = self._starts[number], self._starts[number + 1]
        return self._ids[start:end], self._labels[start:end]


@dataclass(frozen=True, slots=True)
class LoadedFile:
    examples: EncodedExamples
    truncated: Lines
    """Lines whose example was cut to the cutoff."""
    dropped: Lines
    """Lines with nothing left to learn from."""


class _Gathering:
    """What has been read of a file so far."""

    def __init__(self) -> None:
        self._examples: list[tuple[Sequence32, ...]] = []
        self._values: list[float] = []
        self.truncated = Lines()
        self.dropped = Lines()
        self.num_dropped_by_cut = 0
        self.faults = Faults()

    def add(self, line: int, row: EncodedRow) -> None:
        if isinstance(row, ExampleError):
            self.faults.add(line, str(row))
            return
        was_cut = any(example.is_truncated for example in row)
        if was_cut:
            self.truncated.add(line)
        num_before = len(self._examples)
        for example in row:
            sequences = tuple(map(_as_arrays, example.sequences))
            if all((labels != IGNORED).any() for _, labels in sequences):
                self._examples.append(sequences)
                self._values.append(example.value)
        if len(self._examples) == num_before:
            self.dropped.add(line)
            self.num_dropped_by_cut += was_cut

    def examples(self) -> EncodedExamples:
        return EncodedExamples(self._examples, self._values)


def _as_arrays(sequence: EncodedSequence) -> Sequence32:
    """The first token follows nothing, so it is no target."""
    labels = np.asarray(sequence.labels, dtype=np.int32)
    labels[:1] = IGNORED
    return np.asarray(sequence.ids, dtype=np.int32), labels


@dataclass(frozen=True, slots=True)
class Window:
    """How long examples may be, and why."""

    cutoff_len: int
    context_len: int | None
    """The model's own, where its config tells."""

    def __str__(self) -> str:
        context = "" if self.context_len is None else f"; the model's context is {self.context_len}"
        return f"{self.cutoff_len} tokens (cutoff_len{context})"


def load_file(
    path: Path,
    reader: RowReader,
    window: Window,
    *,
    is_validation: bool,
    between_lines: Callable[[], None],
    max_lines: int | None = None,
) -> LoadedFile:
    """Reads and encodes every row, or the first `max_lines` of them.

    Raises InvalidTrainingFile or InvalidValidationFile, and whatever `between_lines` raises.
    """
    gathering = _Gathering()
    try:
        for number, row in _encoded_lines(path, reader, window.cutoff_len, max_lines):
            between_lines()
            gathering.add(number, row)
    except ExampleFileError as error:
        _refuse(str(error), is_validation)
    except OSError as error:
        _refuse(f"The file cannot be read ({type(error).__name__}).", is_validation)
    if gathering.faults:
        _refuse(gathering.faults.describe(), is_validation)
    examples = gathering.examples()
    if not len(examples):
        _refuse(_nothing_to_learn(gathering, window), is_validation)
    return LoadedFile(examples, gathering.truncated, gathering.dropped)


def _nothing_to_learn(gathering: _Gathering, window: Window) -> str:
    reasons: list[str] = []
    cut = gathering.num_dropped_by_cut
    if cut:
        reasons.append(
            f"{cut} of {gathering.dropped.count} are longer than {window}, and were cut before "
            "their first answer: raise cutoff_len where the context allows, or shorten what stands "
            "before the answers"
        )
    if gathering.dropped.count > cut:
        reasons.append(
            f"{gathering.dropped.count - cut} have no answer that counts: see 'weight' and "
            "mask_history"
        )
    return f"No example has anything to learn from: {'; '.join(reasons) or 'there is none'}."


def _encoded_lines(
    path: Path, reader: RowReader, cutoff_len: int, max_lines: int | None
) -> Iterator[tuple[int, EncodedRow]]:
    lines = itertools.islice(read_lines(path), max_lines)
    while chunk := list(itertools.islice(lines, _LINES_AT_ONCE)):
        read = [_read(line, reader) for _, line in chunk]
        rows = [row for row in read if not isinstance(row, ExampleError)]
        encoded = iter(reader.encode(rows, cutoff_len))
        for (number, _), row in zip(chunk, read, strict=True):
            yield number, row if isinstance(row, ExampleError) else next(encoded)


def _read(line: bytes, reader: RowReader) -> Example | ExampleError:
    try:
        return reader.read(line)
    except ExampleError as error:
        return error


def _refuse(reason: str, is_validation: bool) -> NoReturn:
    kind = "validation" if is_validation else "training"
    raised = InvalidValidationFile if is_validation else InvalidTrainingFile
    raise raised(f"The job failed due to an invalid {kind} file. {reason}", f"{kind}_file")
