"""Whether a job's files can be trained on, and every reason why not.

Messages and codes are OpenAI's, but all bad lines are told, not the first alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.store.records import JobError
from templates.example_fields import ExampleError
from templates.examples import ChatExample, TextExample, read_example

MIN_EXAMPLES = 10
NUM_LISTED_LINES = 20
_FAILED = "The job failed due to an invalid {kind} file. "


@dataclass(frozen=True, slots=True)
class ValidFile:
    num_examples: int
    digests: frozenset[bytes]
    """Of the lines, to find examples that two files share."""


class InvalidFileError(Exception):
    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


def validate_training_file(path: Path) -> ValidFile:
    """Raises InvalidFileError."""
    valid = _validate(path, "training")
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


def validate_validation_file(path: Path) -> ValidFile:
    """Raises InvalidFileError."""
    return _validate(path, "validation")


def _validate(path: Path, kind: str) -> ValidFile:
    problems: list[tuple[int, str]] = []
    kinds: set[type] = set()
    digests: set[bytes] = set()
    num_examples = 0
    for number, line in _lines(path):
        num_examples += 1
        try:
            example = read_example(line)
        except ExampleError as error:
            problems.append((number, str(error)))
            continue
        if isinstance(example, TextExample):
            problems.append((number, _UNEXPECTED))
            continue
        if isinstance(example, ChatExample):
            media = example.conversation.messages
            if any(part for message in media for part in message.parts if _is_media(part)):
                problems.append((number, "images are not supported by this model"))
        kinds.add(type(example))
        digests.add(hashlib.blake2b(line.strip(), digest_size=16).digest())
    if problems:
        raise _invalid(kind, _describe(problems))
    if num_examples == 0:
        raise _invalid(kind, "The file has no examples.")
    if len(kinds) > 1:
        raise _invalid(
            kind, "Invalid file format. It mixes chat examples with prompt/completion pairs."
        )
    return ValidFile(num_examples, frozenset(digests))


_UNEXPECTED = "Unexpected file format, expected either prompt/completion pairs or chat messages."


def _is_media(part: object) -> bool:
    return not hasattr(part, "text")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def _describe(problems: Sequence[tuple[int, str]]) -> str:
    if all(text == _UNEXPECTED for _, text in problems):
        numbers = ", ".join(str(number) for number, _ in problems[:NUM_LISTED_LINES])
        return f"{_UNEXPECTED} Lines: {numbers}{_more(problems)}"
    shown = "; ".join(_describe_one(number, text) for number, text in problems[:NUM_LISTED_LINES])
    return f"Invalid file format. {shown}{_more(problems)}"


def _describe_one(number: int, text: str) -> str:
    if text.startswith("line "):
        return f"Example {number} cannot be parsed. Error: {text} (line {number})"
    return f"Example {number}, {text}"


def _more(problems: Sequence[tuple[int, str]]) -> str:
    """The whole count, so that a caller knows how much is to be done."""
    hidden = len(problems) - NUM_LISTED_LINES
    more = f"; and {hidden} more" if hidden > 0 else ""
    return f"{more} ({len(problems)} bad line{'s' if len(problems) > 1 else ''} in all)"


def _invalid(kind: str, reason: str) -> InvalidFileError:
    message = _FAILED.format(kind=kind) + reason
    return InvalidFileError(JobError(f"invalid_{kind}_file", message, f"{kind}_file"))
