"""What the HF engine must know of an architecture to read pictures, clips and sounds for it.

A medium stands in the prompt as tokens whose embeddings are replaced by its features. All else is
asked of transformers: its image processors and feature extractors, and the model's own
`get_..._features`. What a family gives is compared with the stock model at start
(`workers.engine.hf.media.check`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from workers.contract.parts import MediaKind
from workers.engine.hf.media.reading import Clip, Features, Reading, Sound


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where the processors of a loaded model come from."""

    path: str
    tokenizer: Any
    trust_remote_code: bool = False

    def image_processor(self) -> Any:
        """Raises OSError, ValueError or ImportError where there is none."""
        from transformers import AutoImageProcessor

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return AutoImageProcessor.from_pretrained(
                self.path, backend="pil", trust_remote_code=self.trust_remote_code
            )

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file beside the weights; empty if it is not there."""
        file = Path(self.path) / name
        return json.loads(file.read_text()) if file.is_file() else {}

    def word(self, token_id: int) -> str:
        return self.tokenizer.convert_ids_to_tokens(token_id)


class MediaFamily(Protocol):
    placeholders: dict[MediaKind, str]
    """What the model's template writes for one medium."""
    token_ids: dict[MediaKind, int]
    """Whose embeddings are replaced by features."""
    sees_both_ways: bool
    """Whether neighbouring tokens of pictures attend to each other in both directions."""
    sound_rate: int
    """Samples a second that the model hears; 0 where it hears nothing."""
    max_sound_s: float
    """It hears no more than this."""

    def read_picture(self, picture: Image) -> Reading: ...

    def read_clip(self, clip: Clip) -> Reading: ...

    def read_sound(self, sound: Sound) -> Reading: ...

    def encode(self, model: Any, reading: Reading) -> Features: ...

    def positions(
        self, model: Any, ids: Sequence[int], readings: Sequence[Reading]
    ) -> Tensor | None:
        """Of every prompt token, [3, T]; None where they are 0, 1, 2, ..."""
        ...

    def logits(self, model: Any, inputs: dict[str, Any], keep: Any) -> Tensor:
        """[N, V] of the places in a packed row that `keep` picks."""
        ...

    def stock_inputs(self, ids_1T: Tensor, reading: Reading) -> dict[str, Any]:
        """What the stock model's `forward` wants beside ids and the reading's tensors."""
        ...


class PlainFamily:
    """One kind of media, seen from front to back, positions in one dimension."""

    sees_both_ways = False
    sound_rate, max_sound_s = 0, 0.0

    def __init__(self, placeholder: str, token_id: int, kind: MediaKind = MediaKind.IMAGE) -> None:
        self.placeholders = {kind: placeholder}
        self.token_ids = {kind: token_id}

    def read_picture(self, picture: Image) -> Reading:
        raise NotImplementedError("only asked of families with pictures among their placeholders")

    def read_clip(self, clip: Clip) -> Reading:
        raise NotImplementedError("only asked of families with clips among their placeholders")

    def read_sound(self, sound: Sound) -> Reading:
        raise NotImplementedError("only asked of families with sounds among their placeholders")

    def encode(self, model: Any, reading: Reading) -> Features:
        read = getattr(model, f"get_{reading.kind}_features")
        return as_features(read(**on_device(model, reading.tensors), return_dict=True))

    def positions(
        self, model: Any, ids: Sequence[int], readings: Sequence[Reading]
    ) -> Tensor | None:
        return None

    def logits(self, model: Any, inputs: dict[str, Any], keep: Any) -> Tensor:
        return model(**inputs, use_cache=False, logits_to_keep=keep).logits[0]

    def stock_inputs(self, ids_1T: Tensor, reading: Reading) -> dict[str, Any]:
        return {}


def on_device(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in tensors.items()
    }


def as_features(output: Any) -> Features:
    """One medium's, of what `get_..._features` returns."""
    deeper = getattr(output, "deepstack_features", None) or ()
    return Features(
        torch.cat(list(output.pooler_output)),
        tuple(torch.cat(list(layer)) for layer in deeper),
    )


def decoder_logits(model: Any, inputs: dict[str, Any], keep: Any) -> Tensor:
    """For models whose own `forward` does not take all that their decoder does."""
    hidden_1TD = model.get_decoder()(**inputs, use_cache=False).last_hidden_state
    return model.get_output_embeddings()(hidden_1TD[0, keep])
