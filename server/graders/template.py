"""Texts with `{{ item.x }}` and `{{ sample.output_text }}` in them.

A path goes into objects by key and into lists by position (`item.turns.0.text`). What is found is
put in as it is if it is text, else as JSON. Nothing is evaluated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

MAX_TEXT_CHARS = 32_768
"""Of a text, before and after its variables are put in."""
MAX_VARIABLES = 64
"""Of a text."""
_VARIABLE = re.compile(r"\{\{([^{}]{0,256})\}\}")
_PATH = re.compile(r"(?:item|sample)(?:\.[\w-]+)+")
_SAMPLE_FIELDS = frozenset({"output_text", "output_json"})


class TemplateError(ValueError):
    """A variable that no sample or item can have; the message is a whole sentence."""


class MissingVariableError(LookupError):
    """The item or the sample has no such field."""


class SampleNotJsonError(ValueError):
    """`sample.output_json` is asked of an answer that is no JSON."""


class TextTooLongError(ValueError):
    """With its variables in, the text is longer than MAX_TEXT_CHARS."""


@dataclass(frozen=True)
class Sample:
    """The answer that is graded, and the item of the data set that it answers."""

    output_text: str
    item: Mapping[str, Any]

    @property
    def output_json(self) -> Any:
        """The text as JSON, parsed once. Raises SampleNotJsonError."""
        if isinstance(self._parsed, SampleNotJsonError):
            raise self._parsed
        return self._parsed

    @cached_property
    def _parsed(self) -> Any:
        try:
            return json.loads(self.output_text)
        except (ValueError, RecursionError):
            return SampleNotJsonError()


def check_template(text: str) -> None:
    """Raises TemplateError."""
    for number, match in enumerate(_VARIABLE.finditer(text), 1):
        if number > MAX_VARIABLES:
            raise TemplateError(f"A text may have at most {MAX_VARIABLES} variables.")
        _path_of(match)


def fill(text: str, sample: Sample) -> str:
    """Raises TemplateError, MissingVariableError, SampleNotJsonError, TextTooLongError."""
    parts: list[str] = []
    end, size = 0, 0
    for match in _VARIABLE.finditer(text):
        value = _look_up(_path_of(match), sample)
        put_in = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        parts += [text[end : match.start()], put_in]
        end = match.end()
        size += len(parts[-2]) + len(put_in)
        if size > MAX_TEXT_CHARS:
            raise TextTooLongError
    parts.append(text[end:])
    if size + len(parts[-1]) > MAX_TEXT_CHARS:
        raise TextTooLongError
    return "".join(parts)


def _path_of(match: re.Match[str]) -> list[str]:
    path = match[1].strip()
    root, *keys = path.split(".")
    if not _PATH.fullmatch(path) or (root == "sample" and keys[0] not in _SAMPLE_FIELDS):
        raise TemplateError(
            f"'{match[0]}' is no variable; there are item.FIELD, sample.output_text and "
            "sample.output_json."
        )
    return [root, *keys]


def _look_up(path: list[str], sample: Sample) -> Any:
    root, *keys = path
    value: Any = sample.item
    if root == "sample":
        value = sample.output_text if keys[0] == "output_text" else sample.output_json
        keys = keys[1:]
    for key in keys:
        value = _member(value, key)
    return value


def _member(value: Any, key: str) -> Any:
    if isinstance(value, dict) and key in value:
        return value[key]
    if isinstance(value, list) and key.isascii() and key.isdigit() and int(key) < len(value):
        return value[int(key)]
    raise MissingVariableError
