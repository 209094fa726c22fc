"""Where a model's own template has put media: its placeholders, cut out as segments of their own.

The placeholders are among the words that callers' texts are shielded from, so each one in the
control text was written by the template, for the parts in the order of the conversation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from templates.conversation import ChatMessage, MediaKind, MediaPart
from templates.format import FormatError, Segment


def media_parts(messages: Sequence[ChatMessage]) -> list[MediaPart]:
    return [part for message in messages for part in message.parts if isinstance(part, MediaPart)]


def place_media(
    segments: Sequence[Segment], parts: Sequence[MediaPart], placeholders: dict[MediaKind, str]
) -> tuple[Segment, ...]:
    """The segments with every part in its place. Raises FormatError if the template has left one
    out, or written a placeholder for none."""
    waiting: dict[str, list[MediaPart]] = {text: [] for text in placeholders.values()}
    for part in parts:
        text = placeholders.get(part.kind)
        if text is None:
            raise FormatError(f"This model takes no {part.kind} input.", part.place or "messages")
        waiting[text].append(part)
    pattern = re.compile("|".join(map(re.escape, sorted(waiting, key=len, reverse=True))))
    placed: list[Segment] = []
    for segment in segments:
        placed += _cut(segment, pattern, waiting) if segment.control else [segment]
    for left in waiting.values():
        if left:
            raise FormatError(
                f"The model's chat template has no place for this {left[0].kind}.",
                left[0].place or "messages",
            )
    return tuple(placed)


def _cut(
    segment: Segment, pattern: re.Pattern[str], waiting: dict[str, list[MediaPart]]
) -> list[Segment]:
    pieces: list[Segment] = []
    position = 0
    for match in pattern.finditer(segment.text):
        queue = waiting[match[0]]
        if not queue:
            raise FormatError(
                "The model's chat template writes more media than the messages hold.", "messages"
            )
        if match.start() > position:
            pieces.append(Segment(segment.text[position : match.start()], control=True))
        pieces.append(Segment(match[0], control=True, media=queue.pop(0)))
        position = match.end()
    if position < len(segment.text):
        pieces.append(Segment(segment.text[position:], control=True))
    return pieces
