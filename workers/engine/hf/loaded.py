"""A model in memory, with our attention and adapters under it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workers.engine.hf.attention import SlotAttention
from workers.engine.hf.dense import DenseDecoder
from workers.engine.hf.lora.parts import AdaptedLayer
from workers.engine.hf.lora.plan import AdapterStep
from workers.engine.hf.media.host import HfMedia


@dataclass(slots=True)
class LoadedModel:
    model: Any
    attention: SlotAttention
    adapter_step: AdapterStep
    lora_layers: dict[str, AdaptedLayer]
    device: torch.device
    dtype: torch.dtype
    max_model_len: int
    media: HfMedia | None = None
    decoder: DenseDecoder | None = None
    """Computes the same as `model`, faster; None where the model is of another kind."""
    compatibility: str | None = None
    """Why the model runs in compatibility mode, one sequence at a time with its own attention and
    cache; None where it is batched."""
    unserved: frozenset[str] = frozenset()
    """Layers with places for adapters that cannot tell whose their tokens are."""
    wants_all_logits: bool = False
    """Adapted layers lie between the selection of logits and the output layer: nothing is selected
    before them."""
    _selects: bool = field(init=False)

    def __post_init__(self) -> None:
        self._selects = can_select_logits(self.model) and not self.wants_all_logits

    @property
    def selects_logits(self) -> bool:
        """Only tokens whose logits are wanted reach the output layer."""
        return self._selects or self.media is not None or self.decoder is not None

    def logits(self, inputs: dict[str, Any], keep: Tensor) -> Tensor:
        """Float32 logits [N, V] of the tokens whose places in the packed row `keep` lists."""
        if self.media is not None:
            return self.media.family.logits(self.model, inputs, keep).float()
        if self._selects:
            return self.model(**inputs, use_cache=False, logits_to_keep=keep).logits[0].float()
        return self.model(**inputs, use_cache=False).logits[0, keep].float()


def can_select_logits(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters
