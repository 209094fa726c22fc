"""Reads pictures for the HF engine, off the event loop and off the engine's thread."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import warnings
from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from workers.contract.messages import FailureKind
from workers.contract.parts import Media, MediaKind
from workers.engine.backend import PreparedMedia, RefusedError, Work
from workers.engine.hf.media.families import FAMILIES, PictureFamily, Pixels
from workers.engine.hf.media.pictures import PixelBounds, read_picture
from workers.engine.hf.media.sequences import PlacedPicture, SequencePictures
from workers.engine.hf.settings import HfSettings
from workers.engine.spec import EngineSpec

log = logging.getLogger(__name__)

_NUM_THREADS = 2
_KEY_BITS = 63


@dataclass(frozen=True, slots=True)
class _Read:
    pixels: Pixels
    key: int


class HfMedia:
    """`close` must be called."""

    def __init__(
        self,
        model: Any,
        family: PictureFamily,
        processor: Any,
        placeholder: str,
        settings: HfSettings,
    ) -> None:
        self.family = family
        self.processor = processor
        self.token_id: int = model.config.image_token_id
        self._model = model
        self._placeholder = placeholder
        self._bounds = PixelBounds(settings.image_min_pixels, settings.image_max_pixels)
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="pictures")

    @property
    def placeholders(self) -> dict[MediaKind, str]:
        return {MediaKind.IMAGE: self._placeholder}

    async def prepare(self, media: Media) -> PreparedMedia:
        if media.text.count(self._placeholder) != 1:
            raise RefusedError(
                FailureKind.UNSUPPORTED,
                "The chat format of this model writes another placeholder than the model reads.",
                media.param,
            )
        loop = asyncio.get_running_loop()
        read = await loop.run_in_executor(self._threads, self._read, media)
        row = self._placeholder * read.pixels.num_tokens
        return PreparedMedia(media.text.replace(self._placeholder, row), read)

    def place(self, work: Work) -> SequencePictures | None:
        """Finds the pictures in the prompt's tokens. Raises RefusedError."""
        if not work.media:
            return None
        keys = array("q", work.prompt_ids)
        pictures: list[PlacedPicture] = []
        at = 0
        for media in work.media:
            read = media.inputs
            assert isinstance(read, _Read), "prepared by this host"
            size = read.pixels.num_tokens
            at = _find(work.prompt_ids, self.token_id, at)
            if work.prompt_ids[at : at + size] != [self.token_id] * size:
                message = "The image's tokens are not in the prompt as they should be."
                raise RefusedError(FailureKind.INTERNAL, message)
            keys[at : at + size] = array("q", [read.key] * size)
            pictures.append(PlacedPicture(read.pixels, at, at + size))
            at += size
        pixels = [picture.pixels for picture in pictures]
        positions = self.family.positions(self._model, work.prompt_ids, pixels)
        return SequencePictures(pictures, keys, positions)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, media: Media) -> _Read:
        bounds = self._bounds.with_detail(media.detail)
        picture = read_picture(media.data, bounds, media.param)
        digest = hashlib.blake2b(media.data, digest_size=8, salt=(media.detail or "").encode())
        key = int.from_bytes(digest.digest(), "little") >> (64 - _KEY_BITS)
        return _Read(self.family.read(self.processor, picture), ~key)


def _find(ids: list[int], token_id: int, start: int) -> int:
    try:
        return ids.index(token_id, start)
    except ValueError:
        return len(ids)


def open_media(
    model: Any, tokenizer: Any, spec: EngineSpec, settings: HfSettings
) -> HfMedia | None:
    """None where the model reads no pictures, or comes without its image processor."""
    kind = FAMILIES.get(model.config.model_type)
    if kind is None:
        return None
    from transformers import AutoImageProcessor

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            processor = AutoImageProcessor.from_pretrained(
                spec.model_path, trust_remote_code=spec.trust_remote_code
            )
    except (OSError, ValueError, ImportError) as error:
        log.warning("the model reads no pictures: %s", error)
        return None
    placeholder = tokenizer.convert_ids_to_tokens(model.config.image_token_id)
    return HfMedia(model, kind(model), processor, placeholder, settings)
