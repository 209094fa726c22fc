"""How each architecture reads pictures: one entry of `FAMILIES` per model type of transformers.

A family's pictures stand in the prompt as a row of one token, whose embeddings are replaced by the
picture's features; attention among them must be causal, and no layer but the first may read them.
What a family gives is compared with the stock model at start (`workers.engine.hf.media.check`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pixels:
    """One picture as the image processor made it; names are those of the model's `forward`."""

    tensors: dict[str, Tensor]
    num_tokens: int


class PictureFamily(Protocol):
    def read(self, processor: Any, picture: Any) -> Pixels: ...

    def positions(self, model: Any, ids: Sequence[int], pixels: Sequence[Pixels]) -> Tensor | None:
        """Of every prompt token, [3, T]; None where they are 0, 1, 2, ..."""
        ...


class LlavaPictures:
    """One row of tokens for each picture, all of one size: the vision tower's patches."""

    def __init__(self, model: Any) -> None:
        vision = model.config.vision_config
        self._patch_size: int = vision.patch_size
        strategy: str = model.config.vision_feature_select_strategy
        has_class_token = hasattr(model.get_encoder("image").embeddings, "class_embedding")
        self._num_more = has_class_token - (strategy == "default")

    def read(self, processor: Any, picture: Any) -> Pixels:
        values: Tensor = processor(images=[picture], return_tensors="pt")["pixel_values"]
        height, width = values.shape[-2:]
        patches = (height // self._patch_size) * (width // self._patch_size)
        return Pixels({"pixel_values": values}, patches + self._num_more)

    def positions(self, model: Any, ids: Sequence[int], pixels: Sequence[Pixels]) -> None:
        return None


class QwenPictures:
    """Qwen2-VL and Qwen2.5-VL: pictures of their own sizes, positions in three dimensions."""

    _MIN_SIDE, _MAX_RATIO, _CUT_RATIO = 28, 200, 180
    """LLaMA-Factory's (`Qwen2VLPlugin._preprocess_image`); the processor refuses what is longer."""

    def __init__(self, model: Any) -> None:
        self._merge: int = model.config.vision_config.spatial_merge_size
        self._image_id: int = model.config.image_token_id

    def read(self, processor: Any, picture: Any) -> Pixels:
        read = processor(images=[self._shape(picture)], return_tensors="pt")
        tensors = {name: read[name] for name in ("pixel_values", "image_grid_thw")}
        return Pixels(tensors, int(tensors["image_grid_thw"].prod()) // self._merge**2)

    def positions(self, model: Any, ids: Sequence[int], pixels: Sequence[Pixels]) -> Tensor | None:
        ids_1T = torch.tensor([ids])
        grids = torch.cat([picture.tensors["image_grid_thw"] for picture in pixels])
        kinds_1T = (ids_1T == self._image_id).int()
        positions, _ = model.model.get_rope_index(ids_1T, kinds_1T, image_grid_thw=grids)
        return positions[:, 0]

    def _shape(self, picture: Any) -> Any:
        if min(picture.width, picture.height) < self._MIN_SIDE:
            size = (max(picture.width, self._MIN_SIDE), max(picture.height, self._MIN_SIDE))
            picture = picture.resize(size)
        if picture.width / picture.height > self._MAX_RATIO:
            picture = picture.resize((picture.height * self._CUT_RATIO, picture.height))
        if picture.height / picture.width > self._MAX_RATIO:
            picture = picture.resize((picture.width, picture.width * self._CUT_RATIO))
        return picture


FAMILIES: dict[str, type[LlavaPictures | QwenPictures]] = {
    "llava": LlavaPictures,
    "qwen2_vl": QwenPictures,
    "qwen2_5_vl": QwenPictures,
}
