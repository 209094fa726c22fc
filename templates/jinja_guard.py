"""Keeps a caller's texts from acting as control in what a template writes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from templates.conversation import ToolCall
from templates.dialects.base import arguments_of
from templates.format import FormatError, Segment
from templates.jinja_messages import ToText
from templates.reasoning import ThinkingWords
from templates.shield import Shielding


def split_checked(shielding: Shielding, shielded: str, plain: str) -> tuple[Segment, ...]:
    segments = shielding.split(shielded, plain)
    if any(shielding.left_in(segment.text) for segment in segments):
        raise FormatError(
            "A message spells a control token in a place that the model's chat template changes.",
            "messages",
        )
    return segments


def protect_answer(shielding: Shielding, words: ThinkingWords | None) -> ToText:
    """The thought that an answer begins with keeps its marks: the template looks for them."""
    if words is None:
        return shielding.protect
    start, end = words.start.strip(), words.end.strip()

    def protect(text: str) -> str:
        thought, found, rest = text.partition(end)
        if not found:
            return shielding.protect(text)
        opening = start if thought.lstrip().startswith(start) else ""
        blank, _, thought = thought.partition(opening) if opening else ("", "", thought)
        return f"{blank}{opening}{shielding.protect(thought)}{end}{shielding.protect(rest)}"

    return protect


def call_values(call: ToolCall) -> list[Any]:
    """What of a call may spell a control word: its arguments as they stand and as they read, for
    JSON's escapes may hide one from the first."""
    values: list[Any] = [call.name, call.arguments, call.id]
    with suppress(FormatError):
        values.append(arguments_of(call))
    return values
