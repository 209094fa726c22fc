"""The media of one sequence, and what they make of a step's inputs.

Shape letters: T tokens, D hidden size.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workers.engine.hf.media.reading import Features


@dataclass(frozen=True, slots=True)
class Placed:
    """Features, and the tokens of the sequence whose embeddings they replace, ascending."""

    features: Features
    tokens_T: Tensor


@dataclass(slots=True)
class SequenceMedia:
    placed: list[Placed]
    keys: array[int]
    """The sequence's tokens with a number of its medium's content in the place of each token that
    stands for one: sequences that begin alike are those whose keys do."""
    positions_3T: Tensor | None
    """Of the prompt; later tokens count on from its largest. None: places are positions."""
    blocks: tuple[tuple[int, int], ...] = ()
    """From and to which token attention goes both ways; such tokens are computed in one step."""
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

    def whole_end(self, start: int, end: int) -> int:
        """Where a step that begins at `start` and would end at `end` may end."""
        for first, last in self.blocks:
            if first < end < last:
                return first if first > start else last
        return end


@dataclass(frozen=True, slots=True)
class MediaSlice:
    """Tokens `start` to `end` of a sequence with media, from place `first` of the packed row."""

    media: SequenceMedia
    first: int
    start: int
    end: int


def step_inputs(
    model: Any, ids_1T: Tensor, positions_1T: Tensor, slices: Sequence[MediaSlice]
) -> dict[str, Any]:
    """The model's inputs for a packed row."""
    if not slices:
        return {"input_ids": ids_1T, "position_ids": positions_1T}
    embeddings_TD = model.get_input_embeddings()(ids_1T)[0]
    positions = positions_1T
    places: list[Tensor] = []
    deeper: list[tuple[Tensor, ...]] = []
    for part in slices:
        for placed in part.media.placed:
            low, high = torch.searchsorted(
                placed.tokens_T, torch.tensor([part.start, part.end])
            ).tolist()
            if low < high:
                at_T = (placed.tokens_T[low:high] + part.first - part.start).to(ids_1T.device)
                features_TD = placed.features.embeddings_TD[low:high]
                embeddings_TD[at_T] = features_TD.to(embeddings_TD.dtype)
                places.append(at_T)
                deeper.append(tuple(layer_TD[low:high] for layer_TD in placed.features.deeper))
        if part.media.positions_3T is not None:
            if positions.dim() == 2:
                positions = positions_1T.expand(3, 1, -1).clone()
            last = part.first + part.end - part.start
            positions[:, 0, part.first : last] = part.media.positions(part.start, part.end)
    inputs = {"inputs_embeds": embeddings_TD[None], "position_ids": positions}
    return inputs | _deeper_inputs(places, deeper, ids_1T)


def _deeper_inputs(
    places: list[Tensor], deeper: list[tuple[Tensor, ...]], ids_1T: Tensor
) -> dict[str, Any]:
    """The names are those of transformers' DeepStack decoders, which want one row of all media."""
    if not deeper or not deeper[0]:
        return {}
    at_T = torch.cat(places)
    order = at_T.argsort()
    mask_1T = torch.zeros_like(ids_1T, dtype=torch.bool)
    mask_1T[0, at_T] = True
    layers = [torch.cat(layer)[order] for layer in zip(*deeper, strict=True)]
    return {"visual_pos_masks": mask_1T, "deepstack_visual_embeds": layers}
