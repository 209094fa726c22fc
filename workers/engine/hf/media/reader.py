"""Reads media off the event loop, alike for every engine that a family is served by."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from workers.contract.messages import FailureKind
from workers.contract.parts import Media, MediaKind
from workers.engine.backend import PreparedMedia, RefusedError, Work
from workers.engine.hf.media.clips import ClipLimits, read_clip
from workers.engine.hf.media.family import MediaFamily
from workers.engine.hf.media.pictures import PixelBounds, read_picture
from workers.engine.hf.media.reading import Reading
from workers.engine.hf.media.sounds import read_sound

_NUM_READERS = 2
_KEY_BITS = 63


@dataclass(frozen=True, slots=True)
class Read:
    reading: Reading
    digest: bytes
    """Of all that the features depend on."""

    @property
    def key(self) -> int:
        """Negative: no token id."""
        return ~(int.from_bytes(self.digest[:8], "little") >> (64 - _KEY_BITS))


class MediaReader:
    """`close` must be called."""

    def __init__(
        self, family: MediaFamily, pictures: PixelBounds, clips: ClipLimits | None = None
    ) -> None:
        """`clips` may be left out where none are taken."""
        self.family = family
        self._pictures = pictures
        self._clips = clips
        self._readers = ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="media")

    @property
    def placeholders(self) -> dict[MediaKind, str]:
        return self.family.placeholders

    async def prepare(self, media: Media) -> PreparedMedia:
        placeholder = self.placeholders[media.kind]
        if media.text.count(placeholder) != 1:
            raise RefusedError(
                FailureKind.UNSUPPORTED,
                "The chat format of this model writes another placeholder than the model reads.",
                media.param,
            )
        loop = asyncio.get_running_loop()
        read = await loop.run_in_executor(self._readers, self._read, media)
        text = media.text.replace(placeholder, read.reading.text)
        num_audio = read.reading.num_tokens if media.kind is MediaKind.AUDIO else 0
        return PreparedMedia(text, read, num_audio)

    def reads(self, work: Work) -> list[Read]:
        reads = [media.inputs for media in work.media if isinstance(media.inputs, Read)]
        assert len(reads) == len(work.media), "prepared by this host"
        return reads

    def close(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _read(self, media: Media) -> Read:
        digest = hashlib.blake2b(media.data, digest_size=16, person=media.kind.encode())
        digest.update((media.detail or "").encode())
        if media.kind is MediaKind.VIDEO:
            assert self._clips is not None, "only kinds among the placeholders come here"
            reading = self.family.read_clip(read_clip(media.data, self._clips, media.param))
        elif media.kind is MediaKind.AUDIO:
            sound = read_sound(
                media.data, self.family.sound_rate, self.family.max_sound_s, media.param
            )
            reading = self.family.read_sound(sound)
        else:
            bounds = self._pictures.with_detail(media.detail)
            picture = read_picture(media.data, bounds, media.param)
            reading = self.family.read_picture(picture)
        return Read(reading, digest.digest())
