"""The Qwen-VL families: pictures and clips of their own sizes, positions in three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from workers.contract.parts import MediaKind
from workers.engine.hf.media.family import ModelFiles, PlainFamily, decoder_logits
from workers.engine.hf.media.reading import Clip, Reading

_MIN_SIDE, _MAX_RATIO, _CUT_RATIO = 28, 200, 180
"""LLaMA-Factory's (`Qwen2VLPlugin._preprocess_image`); the processor refuses what is longer."""
_POSITION_KINDS = {MediaKind.IMAGE: 1, MediaKind.VIDEO: 2}
"""transformers' `mm_token_type_ids`."""
_VIDEO_PIXELS = {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}
"""transformers' `Qwen2VLVideoProcessor`, where the model's files say nothing."""


class Qwen3VlPictures(PlainFamily):
    """Pictures alone: its clips are cut up by the times of their frames."""

    def __init__(self, model: Any, files: ModelFiles) -> None:
        token_id: int = model.config.image_token_id
        super().__init__(files.word(token_id), token_id)
        self._processor = files.image_processor()
        self._merge: int = model.config.vision_config.spatial_merge_size

    def read_picture(self, picture: Image) -> Reading:
        read = self._processor(images=[_shape(picture)], return_tensors="pt")
        return self._reading(MediaKind.IMAGE, read["pixel_values"], read["image_grid_thw"])

    def positions(
        self, model: Any, ids: Sequence[int], readings: Sequence[Reading]
    ) -> Tensor | None:
        ids_1T = torch.tensor([ids])
        kinds_1T = torch.zeros_like(ids_1T, dtype=torch.int)
        given: dict[str, Any] = {}
        for kind, token_id in self.token_ids.items():
            kinds_1T[ids_1T == token_id] = _POSITION_KINDS[kind]
            name = f"{kind}_grid_thw"
            grids = [reading.tensors[name] for reading in readings if reading.kind == kind]
            given[name] = torch.cat(grids) if grids else None
        seconds = [r.seconds_per_grid for r in readings if r.seconds_per_grid is not None]
        if seconds:
            given["second_per_grid_ts"] = seconds
        positions, _ = model.model.get_rope_index(ids_1T, kinds_1T, **given)
        return positions[:, 0]

    def logits(self, model: Any, inputs: dict[str, Any], keep: Any) -> Tensor:
        return decoder_logits(model, inputs, keep)

    def stock_inputs(self, ids_1T: Tensor, reading: Reading) -> dict[str, Any]:
        is_medium_1T = (ids_1T == self.token_ids[reading.kind]).int()
        given: dict[str, Any] = {"mm_token_type_ids": is_medium_1T * _POSITION_KINDS[reading.kind]}
        if reading.seconds_per_grid is not None:
            given["second_per_grid_ts"] = [reading.seconds_per_grid]
        return given

    def _reading(
        self, kind: MediaKind, values: Tensor, grid: Tensor, seconds: float | None = None
    ) -> Reading:
        size = int(grid.prod()) // self._merge**2
        tensors = {"pixel_values": values, "image_grid_thw": grid}
        if kind is MediaKind.VIDEO:
            tensors = {"pixel_values_videos": values, "video_grid_thw": grid}
        return Reading(kind, tensors, self.placeholders[kind] * size, size, seconds)


class QwenMedia(Qwen3VlPictures):
    """Qwen2-VL and Qwen2.5-VL."""

    def __init__(self, model: Any, files: ModelFiles) -> None:
        super().__init__(model, files)
        video_id: int = model.config.video_token_id
        self.placeholders[MediaKind.VIDEO] = files.word(video_id)
        self.token_ids[MediaKind.VIDEO] = video_id
        self._knows_time = hasattr(model.config.vision_config, "tokens_per_second")
        self._frames = _frame_processor(files)

    def read_clip(self, clip: Clip) -> Reading:
        """Each frame is read as a picture, which the processor repeats to fill a step of time; the
        frames of one step then take each other's places in it."""
        step: int = self._frames.temporal_patch_size
        frames = [_shape(frame) for frame in clip.frames]
        frames += [frames[-1]] * (-len(frames) % step)
        read = self._frames(images=frames, return_tensors="pt")
        _, rows, columns = read["image_grid_thw"][0].tolist()
        size = self._frames.patch_size**2
        # steps of time, frames in one, patches, channels, times repeated, pixels of a patch
        repeated = read["pixel_values"].view(-1, step, rows * columns, 3, step, size)
        values = torch.stack([repeated[:, n, :, :, n] for n in range(step)], 3)
        values = values.reshape(-1, 3 * step * size)
        grid = torch.tensor([[len(frames) // step, rows, columns]])
        seconds = step / clip.frames_per_second if self._knows_time else None
        return self._reading(MediaKind.VIDEO, values, grid, seconds)


def _frame_processor(files: ModelFiles) -> Any:
    """The model's own settings for clips, in the order in which transformers looks for them."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    given = (
        files.read("processor_config.json").get("video_processor")
        or files.read("video_preprocessor_config.json")
        or files.read("preprocessor_config.json")
    )
    if not given.keys() & {"size", "min_pixels", "max_pixels"}:
        given = {**given, "size": dict(_VIDEO_PIXELS)}
    return Qwen2VLImageProcessorPil.from_dict(given)


def _shape(picture: Image) -> Image:
    if min(picture.width, picture.height) < _MIN_SIDE:
        size = (max(picture.width, _MIN_SIDE), max(picture.height, _MIN_SIDE))
        picture = picture.resize(size)
    if picture.width / picture.height > _MAX_RATIO:
        picture = picture.resize((picture.height * _CUT_RATIO, picture.height))
    if picture.height / picture.width > _MAX_RATIO:
        picture = picture.resize((picture.width, picture.width * _CUT_RATIO))
    return picture
