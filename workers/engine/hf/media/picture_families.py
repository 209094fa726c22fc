"""Families that read pictures, with positions in one dimension."""

from __future__ import annotations

from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from workers.contract.parts import MediaKind
from workers.engine.hf.media.family import ModelFiles, PlainFamily
from workers.engine.hf.media.reading import Reading

_CLIP = "clip_vision_model"
"""The vision tower with a token for the whole picture before those of its patches."""


def open_llava(model: Any, files: ModelFiles) -> PlainFamily:
    is_pixtral = model.config.vision_config.model_type == "pixtral"
    return PixtralPictures(model, files) if is_pixtral else LlavaPictures(model, files)


class LlavaPictures(PlainFamily):
    """One row of tokens for each picture, all of one size: the vision tower's patches."""

    def __init__(self, model: Any, files: ModelFiles) -> None:
        token_id: int = model.config.image_token_id
        self._word = files.word(token_id)
        super().__init__(self._word, token_id)
        self._processor = files.image_processor()
        self._patch_size: int = model.config.vision_config.patch_size
        strategy: str = model.config.vision_feature_select_strategy
        has_class_token = model.config.vision_config.model_type == _CLIP
        self._num_more = has_class_token - (strategy == "default")

    def read_picture(self, picture: Image) -> Reading:
        values: Tensor = self._processor(images=[picture], return_tensors="pt")["pixel_values"]
        height, width = values.shape[-2:]
        size = (height // self._patch_size) * (width // self._patch_size) + self._num_more
        return Reading(MediaKind.IMAGE, {"pixel_values": values}, self._word * size, size)


class LlavaNextPictures(PlainFamily):
    """The whole picture, then its parts at a higher resolution with a token at each row's end."""

    def __init__(self, model: Any, files: ModelFiles) -> None:
        from transformers import LlavaNextProcessor

        token_id: int = model.config.image_token_id
        self._word = files.word(token_id)
        super().__init__(self._word, token_id)
        has_class_token = model.config.vision_config.model_type == _CLIP
        self._processor = LlavaNextProcessor(
            files.image_processor(),
            files.tokenizer,
            patch_size=model.config.vision_config.patch_size,
            vision_feature_select_strategy=model.config.vision_feature_select_strategy,
            num_additional_image_tokens=int(has_class_token),
            image_token=self._word,
        )

    def read_picture(self, picture: Image) -> Reading:
        read = self._processor.image_processor(images=[picture], return_tensors="pt")
        text = self._processor.replace_image_token(read, 0)
        tensors = {name: read[name] for name in ("pixel_values", "image_sizes")}
        return Reading(MediaKind.IMAGE, tensors, text, text.count(self._word))


class PixtralPictures(PlainFamily):
    """Pixtral and Mistral 3: pictures of their own sizes, with a token between rows and one at the
    end that are no features."""

    _BREAK, _END = "[IMG_BREAK]", "[IMG_END]"

    def __init__(self, model: Any, files: ModelFiles) -> None:
        token_id: int = model.config.image_token_id
        self._word = files.word(token_id)
        super().__init__(self._word, token_id)
        known = files.tokenizer.get_vocab()
        if self._BREAK not in known or self._END not in known:
            raise ValueError(f"the tokenizer lacks {self._BREAK} or {self._END}")
        self._processor = files.image_processor()
        merge: int = getattr(model.config, "spatial_merge_size", 1)
        self._cell: int = model.config.vision_config.patch_size * merge

    def read_picture(self, picture: Image) -> Reading:
        read = self._processor(images=[picture], patch_size=self._cell, return_tensors="pt")
        sizes = torch.as_tensor(read["image_sizes"])
        rows, columns = (sizes[0] // self._cell).tolist()
        lines = self._BREAK.join([self._word * columns] * rows)
        tensors = {"pixel_values": read["pixel_values"], "image_sizes": sizes}
        return Reading(MediaKind.IMAGE, tensors, lines + self._END, rows * columns)


class InternVlPictures(PlainFamily):
    """The picture cut to tiles, and itself as one more; a mark before and one behind."""

    def __init__(self, model: Any, files: ModelFiles) -> None:
        token_id: int = model.config.image_token_id
        self._word = files.word(token_id)
        super().__init__(self._word, token_id)
        self._processor = files.image_processor()
        self._start: str = getattr(files.tokenizer, "start_image_token", "<img>")
        self._end: str = getattr(files.tokenizer, "end_image_token", "</img>")
        vision = model.config.vision_config
        sides = zip(vision.image_size, vision.patch_size, strict=True)
        rows, columns = (size // patch for size, patch in sides)
        self._per_tile = int(rows * columns * model.config.downsample_ratio**2)

    def read_picture(self, picture: Image) -> Reading:
        read = self._processor(images=[picture], crop_to_patches=True, return_tensors="pt")
        values: Tensor = read["pixel_values"]
        size = values.shape[0] * self._per_tile
        text = f"{self._start}{self._word * size}{self._end}"
        return Reading(MediaKind.IMAGE, {"pixel_values": values}, text, size)


class Gemma3Pictures(PlainFamily):
    """As many tokens for every picture, which see each other in both directions."""

    sees_both_ways = True

    def __init__(self, model: Any, files: ModelFiles) -> None:
        config = model.config
        super().__init__(files.word(config.boi_token_index), config.image_token_id)
        self._processor = files.image_processor()
        self._size: int = config.mm_tokens_per_image
        row = files.word(config.image_token_id) * self._size
        start, end = files.word(config.boi_token_index), files.word(config.eoi_token_index)
        self._text = f"\n\n{start}{row}{end}\n\n"

    def read_picture(self, picture: Image) -> Reading:
        read = self._processor(
            images=[picture], do_convert_rgb=True, do_pan_and_scan=False, return_tensors="pt"
        )
        tensors = {"pixel_values": read["pixel_values"]}
        return Reading(MediaKind.IMAGE, tensors, self._text, self._size)

    def stock_inputs(self, ids_1T: Tensor, reading: Reading) -> dict[str, Any]:
        return {"token_type_ids": (ids_1T == self.token_ids[MediaKind.IMAGE]).int()}
