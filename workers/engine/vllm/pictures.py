"""Pictures in prompts of the vLLM engine: read here as the HF engine reads them, and handed over as
tensors with the tokens that stand for them, so vLLM's own image processors have no part in it.

vLLM knows a picture again by its digest: cached prefixes are shared up to where pictures differ.
"""

# vLLM is installed in its own environment, not in the one that type-checks.
# pyright: reportMissingImports=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from workers.contract.messages import FailureKind
from workers.contract.parts import Media, MediaKind
from workers.engine.backend import PreparedMedia, RefusedError, Work
from workers.engine.spec import EngineSpec, SpecError

if TYPE_CHECKING:
    from workers.engine.hf.media.families import Pixels
    from workers.engine.vllm.settings import VllmSettings

_SERVED = frozenset({"llava", "qwen2_vl", "qwen2_5_vl"})
"""Model types whose picture tensors have the same names in vLLM and in transformers."""
_NUM_THREADS = 2
_MODALITY = "image"


@dataclass(frozen=True, slots=True)
class _Read:
    pixels: Pixels
    digest: str


def takes_pictures(spec: EngineSpec) -> bool:
    """Raises SpecError for a model that vLLM could not load here."""
    from workers.engine.hf.pooling import read_json

    config = read_json(Path(spec.model_path or "") / "config.json") or {}
    if "vision_config" in config and importlib.util.find_spec("torchvision") is None:
        raise SpecError(
            "vLLM loads models that see only where torchvision is installed, and its environment "
            "for CPU has none: use engine: hf"
        )
    return config.get("model_type") in _SERVED


class VllmPictures:
    """`close` must be called."""

    def __init__(
        self, spec: EngineSpec, settings: VllmSettings, engine: Any, tokenizer: Any
    ) -> None:
        """Raises SpecError."""
        from workers.engine.hf.media.families import FAMILIES
        from workers.engine.hf.media.pictures import PixelBounds

        config = engine.model_config.hf_config
        self._family = FAMILIES[config.model_type](SimpleNamespace(config=config))
        self._processor = _image_processor(spec)
        self._token_id: int = config.image_token_id
        self._placeholder: str = tokenizer.convert_ids_to_tokens(self._token_id)
        self._bounds = PixelBounds(settings.image_min_pixels, settings.image_max_pixels)
        self._fields = engine.renderer.get_mm_processor()._get_mm_fields_config
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

    def prompt(self, work: Work) -> dict[str, Any]:
        """vLLM's `MultiModalInput`. Raises RefusedError."""
        from transformers import BatchFeature
        from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

        reads = [media.inputs for media in work.media if isinstance(media.inputs, _Read)]
        items: list[Any] = []
        for read in reads:
            tensors = BatchFeature(read.pixels.tensors)
            made = MultiModalKwargsItems.from_hf_inputs(tensors, self._fields(tensors, {}))
            items += made[_MODALITY]
        places = self._places(work.prompt_ids, [read.pixels.num_tokens for read in reads])
        return {
            "type": "multimodal",
            "prompt_token_ids": work.prompt_ids,
            "mm_kwargs": MultiModalKwargsItems({_MODALITY: items}),
            "mm_hashes": {_MODALITY: [read.digest for read in reads]},
            "mm_placeholders": {
                _MODALITY: [
                    PlaceholderRange(offset=at, length=read.pixels.num_tokens)
                    for at, read in zip(places, reads, strict=True)
                ]
            },
        }

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _places(self, ids: list[int], sizes: list[int]) -> list[int]:
        """Where each picture's row of tokens begins."""
        places: list[int] = []
        at = 0
        for size in sizes:
            while at < len(ids) and ids[at] != self._token_id:
                at += 1
            if ids[at : at + size] != [self._token_id] * size:
                message = "The image's tokens are not in the prompt as they should be."
                raise RefusedError(FailureKind.INTERNAL, message)
            places.append(at)
            at += size
        return places

    def _read(self, media: Media) -> _Read:
        from workers.engine.hf.media.pictures import read_picture

        picture = read_picture(media.data, self._bounds.with_detail(media.detail), media.param)
        digest = hashlib.blake2b(media.data, digest_size=16, salt=(media.detail or "").encode())
        return _Read(self._family.read(self._processor, picture), digest.hexdigest())


def _image_processor(spec: EngineSpec) -> Any:
    """The one without torchvision, as on the HF engine: both see the same pixels."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(
            spec.model_path, backend="pil", trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError, ImportError) as error:
        raise SpecError(f"the model's image processor cannot be used: {error}") from error
