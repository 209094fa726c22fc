"""Pictures, video and sound of a prompt, read by the backend's own processor before tokenising."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from workers.contract.messages import FailureKind
from workers.contract.parts import Media, PromptPart, Text
from workers.engine.backend import MediaHost, PreparedMedia, RefusedError


async def expand_media(
    host: MediaHost | None, prompt: Sequence[PromptPart | Media]
) -> tuple[list[PromptPart], tuple[PreparedMedia, ...]]:
    """The prompt with text in the place of its media, and what they were read to, in order. Raises
    RefusedError."""
    media = [part for part in prompt if isinstance(part, Media)]
    if not media:
        return [part for part in prompt if not isinstance(part, Media)], ()
    for part in media:
        if host is None or part.kind not in host.placeholders:
            raise RefusedError(
                FailureKind.UNSUPPORTED, f"This model takes no {part.kind} input.", part.param
            )
    assert host is not None, "checked for each part"
    prepared = tuple(await asyncio.gather(*map(host.prepare, media)))
    left = iter(prepared)
    parts = [
        Text(next(left).text, control=True, joined=part.joined) if isinstance(part, Media) else part
        for part in prompt
    ]
    return parts, prepared
