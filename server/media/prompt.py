"""A rendered prompt as the engine takes it, media in their places."""

from __future__ import annotations

from collections.abc import Mapping

from templates.conversation import MediaPart
from templates.format import Prompt, Segment
from workers.contract.parts import Media, MediaKind, PromptPart, Text


def prompt_parts(prompt: Prompt, media: Mapping[MediaPart, bytes]) -> list[PromptPart | Media]:
    """`media` has the bytes of every part in the prompt."""
    return [
        Text(segment.text, segment.control, segment.joined)
        if segment.media is None
        else _media(segment, segment.media, media[segment.media])
        for segment in prompt.segments
    ]


def _media(segment: Segment, part: MediaPart, data: bytes) -> Media:
    place = part.place or "messages"
    return Media(MediaKind(part.kind), segment.text, data, place, segment.joined, part.detail)
