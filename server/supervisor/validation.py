"""Whether a job's files can be trained on, and every reason why not.

Messages and codes are OpenAI's, but all bad lines are told, not the first alone. Rows are read by
the trainer's own reader and written in the base's own chat format, so what passes here encodes
there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from server.datasets.prepared import Prepared
from server.store.records import JobError
from templates.conversation import Conversation
from templates.example_faults import Faults, IgnoredColumns, Lines
from templates.example_fields import ExampleError, RowNotes
from templates.example_lines import ExampleFileError, read_lines
from templates.examples import Example, read_example
from templates.format import ChatFormat, FormatError
from templates.training import MaskOptions, check_trainable

MIN_EXAMPLES = 10
MAX_DIGESTS = 500_000
"""Of a validation file's rows, to find those that are trained on too; about 50 MB."""


@dataclass(frozen=True, slots=True)
class ValidFile:
    num_examples: int
    warnings: tuple[str, ...] = ()
    """What its author should know."""
    digests: frozenset[bytes] = frozenset()
    """Of a validation file's rows."""
    num_shared: int = 0
    """The validation file's rows that a training file has, too."""


class InvalidFileError(Exception):
    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


class ChatRows:
    """Rows as the trainer reads them, and chats as it writes them: in the format that the base is
    served in."""

    def __init__(
        self,
        open_format: Callable[[], ChatFormat],
        masks: MaskOptions,
        read: Callable[[bytes], Example] = read_example,
    ) -> None:
        """`open_format` may raise FormatError; it is asked at the first chat. `read` may raise
        ExampleError."""
        self.read = read
        self._open = open_format
        self._masks = masks
        self._format: ChatFormat | None = None

    def check(self, conversation: Conversation) -> None:
        """Raises ExampleError."""
        try:
            if self._format is None:
                self._format = self._open()
            check_trainable(self._format, conversation, self._masks)
        except FormatError as error:
            raise ExampleError(str(error)) from error


def validate_training_file(
    path: Path,
    chats: ChatRows,
    held_out: Set[bytes] = frozenset(),
    prepared: Prepared | None = None,
) -> ValidFile:
    """`held_out`: digests of the validation file's rows. `prepared`: what was found when the rows
    were written to `path`. Raises InvalidFileError."""
    check = _Check("training", chats, held_out).after(prepared)
    valid = check.run(path)
    if valid.num_examples < MIN_EXAMPLES:
        raise InvalidFileError(
            JobError(
                "invalid_n_examples",
                f"Training file has {valid.num_examples} example(s), but must have at least "
                f"{MIN_EXAMPLES} examples",
                "training_file",
            )
        )
    return valid


def validate_validation_file(
    path: Path, chats: ChatRows, prepared: Prepared | None = None
) -> ValidFile:
    """Raises InvalidFileError."""
    return _Check("validation", chats, keeps_digests=True).after(prepared).run(path)


def invalid_file(kind: str, reason: str) -> InvalidFileError:
    """`kind`: training or validation."""
    message = f"The job failed due to an invalid {kind} file. {reason}"
    return InvalidFileError(JobError(f"invalid_{kind}_file", message, f"{kind}_file"))


@dataclass(slots=True)
class _Check:
    """One pass over a file; what it keeps is bounded, however long the file is."""

    kind: str
    chats: ChatRows
    held_out: Set[bytes] = frozenset()
    keeps_digests: bool = False
    faults: Faults = field(default_factory=Faults)
    kinds: set[type] = field(default_factory=set[type])
    digests: set[bytes] = field(default_factory=set[bytes])
    ignored: IgnoredColumns = field(default_factory=IgnoredColumns)
    unwrapped: Lines = field(default_factory=Lines)

    def after(self, prepared: Prepared | None) -> Self:
        if prepared is not None:
            self.faults, self.ignored = prepared.faults, prepared.ignored
        return self

    def run(self, path: Path) -> ValidFile:
        num_examples = 0
        shared: set[bytes] = set()
        for number, line in self._lines(path):
            num_examples += 1
            example = self._read(number, line)
            if example is None:
                continue
            self.kinds.add(type(example))
            self._note(number, example.notes)
            if self.held_out or self.keeps_digests:
                digest = hashlib.blake2b(line.strip(), digest_size=16).digest()
                if digest in self.held_out:
                    shared.add(digest)
                if self.keeps_digests and len(self.digests) < MAX_DIGESTS:
                    self.digests.add(digest)
        if self.faults:
            raise self._invalid(self.faults.describe())
        if num_examples == 0:
            raise self._invalid("The file has no examples.")
        if len(self.kinds) > 1:
            raise self._invalid(
                "Invalid file format. It mixes chat examples with prompt/completion pairs."
            )
        warnings = tuple(self._warnings())
        return ValidFile(num_examples, warnings, frozenset(self.digests), len(shared))

    def _lines(self, path: Path) -> Iterator[tuple[int, bytes]]:
        try:
            yield from read_lines(path)
        except ExampleFileError as error:
            raise self._invalid(f"Invalid file format. {error}") from error

    def _read(self, number: int, line: bytes) -> Example | None:
        try:
            example = self.chats.read(line)
            for conversation in example.conversations:
                self.chats.check(conversation)
        except ExampleError as error:
            self.faults.add(number, str(error))
            return None
        return example

    def _note(self, number: int, notes: RowNotes) -> None:
        self.ignored.add(number, notes.ignored_columns)
        if notes.unwrapped_arguments:
            self.unwrapped.add(number)

    def _warnings(self) -> Iterator[str]:
        ignored = self.ignored.describe(self.kind)
        if ignored is not None:
            yield ignored
        if self.unwrapped.count:
            yield (
                f"The arguments of tool calls were JSON encoded twice in {self.unwrapped.count} "
                f"{self.kind} example(s) and were unwrapped: {self.unwrapped}"
            )

    def _invalid(self, reason: str) -> InvalidFileError:
        return invalid_file(self.kind, reason)
