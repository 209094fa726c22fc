"""Whether a picture gives the same logits through our inputs and attention as through the stock
model's own. Run at start, once before our attention is put in and once after."""

from __future__ import annotations

from array import array
from typing import Any

import torch
from torch import Tensor

from workers.engine.hf.media.host import HfMedia
from workers.engine.hf.media.sequences import (
    PictureSlice,
    PlacedPicture,
    SequencePictures,
    step_inputs,
)

_SIZE = (64, 48)
_NUM_BEFORE, _NUM_AFTER = 5, 4


class PictureProbe:
    def __init__(self, model: Any, media: HfMedia) -> None:
        from PIL import Image

        self._model = model
        picture = Image.linear_gradient("L").resize(_SIZE).convert("RGB")
        self._pixels = media.family.read(media.processor, picture)
        vocab_size: int = model.config.get_text_config().vocab_size
        around = [(n * 7 + 1) % vocab_size for n in range(_NUM_BEFORE + _NUM_AFTER)]
        row = [media.token_id] * self._pixels.num_tokens
        self._ids = [*around[:_NUM_BEFORE], *row, *around[_NUM_BEFORE:]]
        self._positions = media.family.positions(model, self._ids, [self._pixels])
        self._token_id = media.token_id

    @torch.inference_mode()
    def stock(self) -> Tensor:
        ids_1T = torch.tensor([self._ids], device=self._model.device)
        inputs = {name: t.to(self._model.device) for name, t in self._pixels.tensors.items()}
        if self._positions is not None:
            inputs["mm_token_type_ids"] = (ids_1T == self._token_id).int()
        return self._model(input_ids=ids_1T, use_cache=False, **inputs).logits[0].float()

    @torch.inference_mode()
    def ours(self) -> Tensor:
        device = self._model.device
        start = _NUM_BEFORE
        picture = PlacedPicture(self._pixels, start, start + self._pixels.num_tokens)
        pictures = SequencePictures([picture], array("q", self._ids), self._positions)
        inputs = step_inputs(
            self._model,
            torch.tensor([self._ids], device=device),
            torch.arange(len(self._ids), device=device)[None],
            [PictureSlice(pictures, 0, 0, len(self._ids))],
        )
        return self._model(**inputs, use_cache=False).logits[0].float()
