"""Pictures in prompts of the vLLM engine: read here as the HF engine reads them, and handed over as
tensors with the tokens that stand for them, so vLLM's own image processors have no part in it.

vLLM knows a picture again by its digest: cached prefixes are shared up to where pictures differ.
"""

# vLLM is installed in its own environment, not in the one that type-checks.
# pyright: reportMissingImports=false, reportUnknownVariableType=false

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

from workers.contract.messages import FailureKind
from workers.contract.parts import MediaKind
from workers.engine.backend import RefusedError, Work
from workers.engine.hf.media.families import FAMILIES
from workers.engine.hf.media.family import ModelFiles
from workers.engine.hf.media.pictures import PixelBounds
from workers.engine.hf.media.reader import MediaReader
from workers.engine.spec import EngineSpec, SpecError
from workers.engine.vllm.settings import VllmSettings

_MODALITY = "image"


class VllmPictures(MediaReader):
    def __init__(
        self, spec: EngineSpec, settings: VllmSettings, engine: Any, tokenizer: Any
    ) -> None:
        """Raises SpecError."""
        config = engine.model_config.hf_config
        files = ModelFiles(spec.model_path or "", tokenizer, spec.trust_remote_code)
        bounds = PixelBounds(settings.image_min_pixels, settings.image_max_pixels)
        try:
            # The model itself is in another process; its config is all that reading asks for.
            family = FAMILIES[config.model_type](SimpleNamespace(config=config), files)
        except (OSError, ValueError, ImportError) as error:
            raise SpecError(f"the model's image processor cannot be used: {error}") from error
        super().__init__(family, bounds)
        self._fields = engine.renderer.get_mm_processor()._get_mm_fields_config

    @property
    def placeholders(self) -> dict[MediaKind, str]:
        """Of all that the family reads, pictures."""
        return {MediaKind.IMAGE: self.family.placeholders[MediaKind.IMAGE]}

    def prompt(self, work: Work) -> dict[str, Any]:
        """vLLM's `MultiModalInput`. Raises RefusedError."""
        reads = self.reads(work)
        items: list[Any] = []
        for read in reads:
            tensors = BatchFeature(read.reading.tensors)
            made = MultiModalKwargsItems.from_hf_inputs(tensors, self._fields(tensors, {}))
            items += made[_MODALITY]
        places = self._places(work.prompt_ids, [read.reading.num_tokens for read in reads])
        return {
            "type": "multimodal",
            "prompt_token_ids": work.prompt_ids,
            "mm_kwargs": MultiModalKwargsItems({_MODALITY: items}),
            "mm_hashes": {_MODALITY: [read.digest.hex() for read in reads]},
            "mm_placeholders": {
                _MODALITY: [
                    PlaceholderRange(offset=at, length=read.reading.num_tokens)
                    for at, read in zip(places, reads, strict=True)
                ]
            },
        }

    def _places(self, ids: list[int], sizes: list[int]) -> list[int]:
        """Where each picture's row of tokens begins."""
        token_id = self.family.token_ids[MediaKind.IMAGE]
        places: list[int] = []
        at = 0
        for size in sizes:
            while at < len(ids) and ids[at] != token_id:
                at += 1
            if ids[at : at + size] != [token_id] * size:
                message = "The image's tokens are not in the prompt as they should be."
                raise RefusedError(FailureKind.INTERNAL, message)
            places.append(at)
            at += size
        return places
