"""What an adapter has for a layer, and what a layer that takes it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """What an adapter has for one layer."""

    factors: tuple[Tensor, Tensor] | None = None
    """A [rank, in] and B transposed [rank, out], with all scaling in B."""
    scale: Tensor | None = None
    """DoRA: what each output of the base's weights is multiplied by."""
    whole: Tensor | None = None
    """In place of the base's weights."""

    @property
    def num_bytes(self) -> int:
        parts = (*(self.factors or ()), self.scale, self.whole)
        return sum(part.nbytes for part in parts if part is not None)

    def moved(self, device: torch.device, dtype: torch.dtype) -> LayerWeights:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype, non_blocking=True)

        factors = None if self.factors is None else (move(self.factors[0]), move(self.factors[1]))
        scale = None if self.scale is None else move(self.scale)
        return LayerWeights(factors, scale, None if self.whole is None else move(self.whole))


class AdaptedLayer(Protocol):
    """A layer of the model that adapters can be added to."""

    in_features: int
    out_features: int

    def base_weight(self) -> Tensor | None:
        """[out, in]; None where it is quantized."""
        ...

    def take(self, first: int, end: int, part: LayerWeights) -> None:
        """Puts what an adapter has for this layer at its ranks, `first` to `end`."""
        ...

    def blank(self, first: int, end: int) -> None: ...
