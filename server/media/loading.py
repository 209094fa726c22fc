"""The bytes of all media of a request: data URLs read, others downloaded, at once."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from server.config import Media
from server.errors import InvalidRequest
from server.media.fetching import Budget, Fetcher
from server.media.file_types import check_type
from server.media.problems import MediaProblem, Problem, refuse
from templates.conversation import ChatMessage, MediaKind, MediaPart, TextPart
from workers.contract.hello import Hello

_INLINE_CHARS = 256 * 1024
"""Longer data URLs are decoded off the event loop."""
_EXPECTED_AUDIO = {"data:audio/wav;base64,": "wav", "data:audio/mp3;base64,": "mp3"}
"""`input_audio` names its format; other URLs may say what they like."""


def media_parts(messages: Sequence[ChatMessage]) -> list[MediaPart]:
    found: list[MediaPart] = []
    for message in messages:
        if len(message.parts) != 1 or not isinstance(message.parts[0], TextPart):
            found += [part for part in message.parts if isinstance(part, MediaPart)]
    return found


def check_kinds(parts: Sequence[MediaPart], hello: Hello) -> None:
    """Raises InvalidRequest for a part that the model does not take."""
    taken = [str(kind) for kind in hello.media]
    for part in parts:
        if part.kind.value not in taken:
            raise InvalidRequest(
                f"Unsupported value: '{part.place}'. This model takes "
                f"{' and '.join(['text', *taken])}{'' if taken else ' only'}, and no {part.kind}.",
                param=part.place,
                code="unsupported_value",
            )


class MediaLoader:
    """`close` must be called."""

    def __init__(self, settings: Media) -> None:
        self._settings = settings
        self._fetcher = Fetcher(settings)

    async def close(self) -> None:
        await self._fetcher.close()

    async def load(self, parts: Sequence[MediaPart]) -> dict[MediaPart, bytes]:
        """Raises InvalidRequest that names the first part found wrong."""
        if not parts:
            return {}
        if len(parts) > self._settings.max_parts:
            raise InvalidRequest(
                f"The messages hold {len(parts)} media parts; at most {self._settings.max_parts} "
                "are allowed.",
                param="messages",
                code="array_above_max_length",
            )
        budget = Budget(self._settings)
        loads = [asyncio.ensure_future(self._load(part, budget)) for part in parts]
        try:
            return dict(zip(parts, await asyncio.gather(*loads), strict=True))
        finally:
            for load in loads:
                load.cancel()

    async def _load(self, part: MediaPart, budget: Budget) -> bytes:
        try:
            if part.url[:5].lower() != "data:":
                data = await self._fetcher.fetch(part.url, budget)
            elif len(part.url) > _INLINE_CHARS:
                budget.check(len(part.url) // 4 * 3 - 1024)
                data = await asyncio.to_thread(_read_data_url, part.url)
            else:
                data = _read_data_url(part.url)
            budget.spend(len(data))
            expected = None
            if part.kind is MediaKind.AUDIO:
                expected = _EXPECTED_AUDIO.get(part.url[:22])
            check_type(part.kind, data, expected)
        except MediaProblem as problem:
            raise refuse(part, problem) from None
        return data


def _read_data_url(url: str) -> bytes:
    """RFC 2397. Raises MediaProblem."""
    header, comma, body = url[5:].partition(",")
    if not comma:
        raise MediaProblem(Problem.URL, "It is not a valid data URL.")
    if not header.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    if "%" in body[:_INLINE_CHARS]:
        body = unquote_to_bytes(body).decode("latin-1")
    try:
        return binascii.a2b_base64(body, strict_mode=True)
    except ValueError:
        raise MediaProblem(Problem.BASE64, "Its base64 cannot be decoded.") from None
