"""Reads media for the HF engine, off the event loop, and encodes them, off the engine's thread: a
sequence joins the batch when its features are there, so streams go on meanwhile."""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from workers.contract.messages import FailureKind
from workers.engine.backend import RefusedError, Work
from workers.engine.hf.media.clips import ClipLimits
from workers.engine.hf.media.families import FAMILIES
from workers.engine.hf.media.family import MediaFamily, ModelFiles
from workers.engine.hf.media.pictures import PixelBounds
from workers.engine.hf.media.reader import MediaReader, Read
from workers.engine.hf.media.reading import Features, Reading
from workers.engine.hf.media.sequences import Placed, SequenceMedia
from workers.engine.hf.media.shelf import FeatureShelf
from workers.engine.hf.memory import is_out_of_memory
from workers.engine.hf.settings import HfSettings
from workers.engine.spec import EngineSpec, SpecError

log = logging.getLogger(__name__)


class HfMedia(MediaReader):
    def __init__(self, model: Any, family: MediaFamily, settings: HfSettings) -> None:
        pictures = PixelBounds(settings.image_min_pixels, settings.image_max_pixels)
        frames = PixelBounds(settings.video_min_pixels, settings.video_max_pixels)
        clips = ClipLimits(settings.video_fps, settings.video_maxlen, frames)
        super().__init__(family, pictures, clips)
        self._model = model
        self._shelf = FeatureShelf(settings.media_cache_bytes)
        self._encoding: dict[bytes, asyncio.Future[Features]] = {}
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encoder")

    async def place(self, work: Work) -> SequenceMedia:
        """Encodes the media and finds them in the prompt's tokens. Raises RefusedError."""
        reads = self.reads(work)
        scope = work.cache_scope.encode()
        features = await asyncio.gather(*(self._features(read, scope) for read in reads))
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
        super().close()
        self._encoder.shutdown(wait=False, cancel_futures=True)

    async def _features(self, read: Read, scope: bytes) -> Features:
        key = read.digest + scope
        known = self._shelf.get(key)
        if known is not None:
            return known
        encoding = self._encoding.get(key)
        if encoding is None:
            loop = asyncio.get_running_loop()
            encoding = loop.run_in_executor(self._encoder, self._encode, read.reading)
            self._encoding[key] = encoding
            encoding.add_done_callback(partial(self._keep, key))
        return await asyncio.shield(encoding)

    def _keep(self, key: bytes, encoding: asyncio.Future[Features]) -> None:
        del self._encoding[key]
        if not encoding.cancelled() and encoding.exception() is None:
            self._shelf.put(key, encoding.result())

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
