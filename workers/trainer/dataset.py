"""A training file as token ids and the tokens to learn, held in flat arrays.

Every bad line is found before anything is trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from templates.example_faults import Faults, Lines
from templates.example_fields import ExampleError
from templates.example_lines import ExampleFileError, read_lines
from templates.examples import Example, read_example
from workers.trainer.failures import InvalidTrainingFile, InvalidValidationFile

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
    truncated: Lines
    """Lines whose example was cut to the cutoff."""
    dropped: Lines
    """Lines with nothing left to learn from."""


class _Gathering:
    """What has been read of a file so far."""

    def __init__(self) -> None:
        self._ids: list[npt.NDArray[np.int32]] = []
        self._labels: list[npt.NDArray[np.int32]] = []
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
        num_before = len(self._ids)
        for example in row:
            labels = np.asarray(example.labels, dtype=np.int32)
            labels[:1] = IGNORED
            if (labels != IGNORED).any():
                self._ids.append(np.asarray(example.ids, dtype=np.int32))
                self._labels.append(labels)
        if len(self._ids) == num_before:
            self.dropped.add(line)
            self.num_dropped_by_cut += was_cut

    def examples(self) -> EncodedExamples:
        empty = np.zeros(0, dtype=np.int32)
        return EncodedExamples(
            np.concatenate([empty, *self._ids]),
            np.concatenate([empty, *self._labels]),
            [len(ids) for ids in self._ids],
        )


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
    encode: Encode,
    window: Window,
    *,
    is_validation: bool,
    pretraining: bool,
    between_lines: Callable[[], None],
) -> LoadedFile:
    """Reads and encodes every row.

    Raises InvalidTrainingFile or InvalidValidationFile, and whatever `between_lines` raises.
    """
    gathering = _Gathering()
    try:
        for number, row in _encoded_lines(path, encode, pretraining):
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
    path: Path, encode: Encode, pretraining: bool
) -> Iterator[tuple[int, EncodedRow]]:
    lines = read_lines(path)
    while chunk := list(itertools.islice(lines, _LINES_AT_ONCE)):
        read = [_read(line, pretraining) for _, line in chunk]
        encoded = iter(encode([row for row in read if not isinstance(row, ExampleError)]))
        for (number, _), row in zip(chunk, read, strict=True):
            yield number, row if isinstance(row, ExampleError) else next(encoded)


def _read(line: bytes, pretraining: bool) -> Example | ExampleError:
    try:
        return read_example(line, pretraining=pretraining)
    except ExampleError as error:
        return error


def _refuse(reason: str, is_validation: bool) -> NoReturn:
    kind = "validation" if is_validation else "training"
    raised = InvalidValidationFile if is_validation else InvalidTrainingFile
    raise raised(f"The job failed due to an invalid {kind} file. {reason}", f"{kind}_file")
