"""The pictures of one sequence, and what they make of a step's inputs.

Shape letters: T tokens, D hidden size.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workers.engine.hf.media.families import Pixels


@dataclass(slots=True)
class PlacedPicture:
    """Stands at tokens `start` to `end` of its sequence."""

    pixels: Pixels
    start: int
    end: int
    _features: Tensor | None = None

    def features(self, model: Any) -> Tensor:
        """[tokens, D]; computed when first asked for, on the engine's thread."""
        if self._features is None:
            tensors = {
                name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
                for name, tensor in self.pixels.tensors.items()
            }
            read = model.get_image_features(**tensors, return_dict=True).pooler_output
            self._features = torch.cat(list(read))
        return self._features


@dataclass(slots=True)
class SequencePictures:
    pictures: list[PlacedPicture]
    keys: array[int]
    """The sequence's tokens with a number of its picture's content in the place of each token that
    stands for one: sequences that begin alike are those whose keys do."""
    positions_3T: Tensor | None
    """Of the prompt; later tokens count on from its largest. None: places are positions."""
    _shift: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.positions_3T is not None:
            self._shift = int(self.positions_3T.max()) + 1 - self.positions_3T.shape[1]

    def positions(self, start: int, end: int) -> Tensor:
        """[3, end - start]."""
        given = self.positions_3T
        if given is None:
            return torch.arange(start, end).expand(3, -1)
        num_given = given.shape[1]
        later = torch.arange(max(start, num_given), max(end, num_given)) + self._shift
        return torch.cat([given[:, start:end], later.expand(3, -1)], 1)


@dataclass(frozen=True, slots=True)
class PictureSlice:
    """Tokens `start` to `end` of a sequence with pictures, from place `first` of the packed row."""

    pictures: SequencePictures
    first: int
    start: int
    end: int


def step_inputs(
    model: Any, ids_1T: Tensor, positions_1T: Tensor, slices: Sequence[PictureSlice]
) -> dict[str, Tensor]:
    """The model's inputs for a packed row."""
    if not slices:
        return {"input_ids": ids_1T, "position_ids": positions_1T}
    embeddings = model.get_input_embeddings()(ids_1T)
    positions = positions_1T
    for part in slices:
        for picture in part.pictures.pictures:
            start, end = max(picture.start, part.start), min(picture.end, part.end)
            if start < end:
                at = part.first + start - part.start
                features = picture.features(model)[start - picture.start : end - picture.start]
                embeddings[0, at : at + end - start] = features.to(embeddings.dtype)
        if part.pictures.positions_3T is not None:
            if positions.dim() == 2:
                positions = positions_1T.expand(3, 1, -1).clone()
            last = part.first + part.end - part.start
            positions[:, 0, part.first : last] = part.pictures.positions(part.start, part.end)
    return {"inputs_embeds": embeddings, "position_ids": positions}
