"""Reads media for the HF engine, off the event loop, and encodes them, off the engine's thread: a
sequence joins the batch when its features are there, so streams go on meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from workers.contract.messages import FailureKind
from workers.contract.parts import Media, MediaKind
from workers.engine.backend import PreparedMedia, RefusedError, Work
from workers.engine.hf.media.clips import ClipLimits, read_clip
from workers.engine.hf.media.families import FAMILIES
from workers.engine.hf.media.family import MediaFamily, ModelFiles
from workers.engine.hf.media.pictures import PixelBounds, read_picture
from workers.engine.hf.media.reading import Features, Reading
from workers.engine.hf.media.sequences import Placed, SequenceMedia
from workers.engine.hf.media.shelf import FeatureShelf
from workers.engine.hf.media.sounds import read_sound
from workers.engine.hf.memory import is_out_of_memory
from workers.engine.hf.settings import HfSettings
from workers.engine.spec import EngineSpec, SpecError

log = logging.getLogger(__name__)

_NUM_READERS = 2
_KEY_BITS = 63


@dataclass(frozen=True, slots=True)
class _Read:
    reading: Reading
    digest: bytes
    """Of all that the features depend on."""

    @property
    def key(self) -> int:
        """Negative: no token id."""
        return ~(int.from_bytes(self.digest[:8], "little") >> (64 - _KEY_BITS))


class HfMedia:
    """`close` must be called."""

    def __init__(self, model: Any, family: MediaFamily, settings: HfSettings) -> None:
        self.family = family
        self._model = model
        self._pictures = PixelBounds(settings.image_min_pixels, settings.image_max_pixels)
        frames = PixelBounds(settings.video_min_pixels, settings.video_max_pixels)
        self._clips = ClipLimits(settings.video_fps, settings.video_maxlen, frames)
        self._shelf = FeatureShelf(settings.media_cache_bytes)
        self._encoding: dict[bytes, asyncio.Future[Features]] = {}
        self._readers = ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="media")
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encoder")

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

    async def place(self, work: Work) -> SequenceMedia:
        """Encodes the media and finds them in the prompt's tokens. Raises RefusedError."""
        reads = [media.inputs for media in work.media if isinstance(media.inputs, _Read)]
        assert len(reads) == len(work.media), "prepared by this host"
        features = await asyncio.gather(*map(self._features, reads))
        keys = array("q", work.prompt_ids)
        readings = [read.reading for read in reads]
        media = self.place_features(work.prompt_ids, keys, readings, features)
        for read, placed in zip(reads, media.placed, strict=True):
            for at in placed.tokens_T.tolist():
                keys[at] = read.key
        return media

    def place_features(
        self,
        ids: Sequence[int],
        keys: array[int],
        readings: Sequence[Reading],
        features: Sequence[Features],
    ) -> SequenceMedia:
        """Each medium takes the next tokens of its kind. Raises RefusedError."""
        ids_T = torch.tensor(ids)
        left = {
            kind: (ids_T == token_id).nonzero()[:, 0]
            for kind, token_id in self.family.token_ids.items()
        }
        placed: list[Placed] = []
        for reading, its_features in zip(readings, features, strict=True):
            size = reading.num_tokens
            tokens_T, left[reading.kind] = left[reading.kind].split(
                [min(size, len(left[reading.kind])), max(0, len(left[reading.kind]) - size)]
            )
            if not len(tokens_T) == len(its_features.embeddings_TD) == size:
                message = f"The {reading.kind}'s tokens are not in the prompt as they should be."
                raise RefusedError(FailureKind.INTERNAL, message)
            placed.append(Placed(its_features, tokens_T))
        positions = self.family.positions(self._model, ids, readings)
        blocks = _runs(placed) if self.family.sees_both_ways else ()
        return SequenceMedia(placed, keys, positions, blocks)

    def close(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._encoder.shutdown(wait=False, cancel_futures=True)

    def _read(self, media: Media) -> _Read:
        digest = hashlib.blake2b(media.data, digest_size=16, person=media.kind.encode())
        digest.update((media.detail or "").encode())
        if media.kind is MediaKind.VIDEO:
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
        return _Read(reading, digest.digest())

    async def _features(self, read: _Read) -> Features:
        known = self._shelf.get(read.digest)
        if known is not None:
            return known
        encoding = self._encoding.get(read.digest)
        if encoding is None:
            loop = asyncio.get_running_loop()
            encoding = loop.run_in_executor(self._encoder, self._encode, read.reading)
            self._encoding[read.digest] = encoding
            encoding.add_done_callback(partial(self._keep, read.digest))
        return await asyncio.shield(encoding)

    def _keep(self, digest: bytes, encoding: asyncio.Future[Features]) -> None:
        del self._encoding[digest]
        if not encoding.cancelled() and encoding.exception() is None:
            self._shelf.put(digest, encoding.result())

    @torch.inference_mode()
    def _encode(self, reading: Reading) -> Features:
        try:
            return self.family.encode(self._model, reading)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            message = "The engine ran out of memory."
            raise RefusedError(FailureKind.OUT_OF_MEMORY, message) from None


def _runs(placed: Sequence[Placed]) -> tuple[tuple[int, int], ...]:
    """Neighbouring tokens as spans, from and to."""
    spans: list[tuple[int, int]] = []
    for token in (token for one in placed for token in one.tokens_T.tolist()):
        if spans and spans[-1][1] == token:
            spans[-1] = (spans[-1][0], token + 1)
        else:
            spans.append((token, token + 1))
    return tuple(spans)


def open_media(
    model: Any, tokenizer: Any, spec: EngineSpec, settings: HfSettings
) -> HfMedia | None:
    """None where the model takes text only, or comes without its processor. Raises SpecError."""
    kind = FAMILIES.get(model.config.model_type)
    if kind is None:
        return None
    assert spec.model_path is not None, "the spec has checked it"
    files = ModelFiles(spec.model_path, tokenizer, spec.trust_remote_code)
    try:
        family = kind(model, files)
    except (OSError, ValueError, ImportError) as error:
        log.warning("the model reads no media: %s", error)
        return None
    if family.sound_rate not in (0, settings.audio_sampling_rate):
        raise SpecError(
            f"settings: audio_sampling_rate: the model hears {family.sound_rate} samples a second"
        )
    return HfMedia(model, family, settings)
