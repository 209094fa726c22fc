"""One picture, clip or sound on its way from a file to the features that stand for its tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL.Image import Image
from torch import Tensor

from workers.contract.parts import MediaKind


@dataclass(frozen=True, slots=True)
class Clip:
    """A video's sampled frames, RGB and all of one size."""

    frames: list[Image]
    times_s: list[float]
    """When each frame is shown."""
    frames_per_second: float
    """As sampled."""


@dataclass(frozen=True, slots=True)
class Sound:
    """One channel at the rate of the settings, from -1 to 1."""

    samples: np.ndarray


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model's processor makes of one medium."""

    kind: MediaKind
    tensors: dict[str, Tensor]
    """By the names of the model's `forward`."""
    text: str
    """What stands in the prompt for it: tokens to be replaced by features, and words around and
    among them."""
    num_tokens: int
    """Of `text`, those to be replaced."""
    seconds_per_grid: float | None = None
    """Of a clip: how much time one step of its positions is."""


@dataclass(frozen=True, slots=True)
class Features:
    """What the model's encoder makes of a reading."""

    embeddings_TD: Tensor
    """Stand in place of the embeddings of the reading's tokens."""
    deeper: tuple[Tensor, ...] = ()
    """[T, D] each; added to the same tokens behind the decoder's first layers (DeepStack)."""

    @property
    def num_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.embeddings_TD, *self.deeper))
