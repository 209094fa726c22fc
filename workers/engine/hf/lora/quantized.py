"""Quantized linear layers with each token's own adapter beside them.

Their weights cannot stand in one product with the adapters' (see `layer`), so the layer computes
its own part as it does, and the adapters' part is added: what PEFT does on such layers.

Shape letters as in `layer`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.quantization_config import QuantizationMethod

from workers.engine.hf.lora.layer import FIRST_RANKS
from workers.engine.hf.lora.parts import LayerWeights
from workers.engine.hf.lora.plan import AdapterStep


class QuantizedLora(nn.Module):
    """Stands in for a quantized linear layer; its adapters have the model's own dtype."""

    def __init__(self, linear: nn.Linear, width: int, step: AdapterStep, dtype: torch.dtype):
        super().__init__()
        self.linear = linear
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._step = step
        self._max_ranks = width
        self._a_CI = torch.zeros(0, self.in_features, dtype=dtype, device=linear.weight.device)
        self._b_CO = torch.zeros(0, self.out_features, dtype=dtype, device=linear.weight.device)
        self._reach(min(width, FIRST_RANKS))

    def _reach(self, num_ranks: int) -> None:
        """Makes room for so many ranks."""
        missing = num_ranks - self._a_CI.shape[0]
        if missing > 0:
            self._a_CI = F.pad(self._a_CI, (0, 0, 0, missing))
            self._b_CO = F.pad(self._b_CO, (0, 0, 0, missing))

    def base_weight(self) -> Tensor | None:
        return None

    def take(self, first: int, end: int, part: LayerWeights) -> None:
        if part.factors is not None:
            self.install(first, *part.factors)

    def install(self, first: int, a: Tensor, b: Tensor) -> None:
        end = first + a.shape[0]
        if end > self._a_CI.shape[0]:
            self._reach(min(max(end, 2 * self._a_CI.shape[0]), self._max_ranks))
        self._a_CI[first:end].copy_(a, non_blocking=True)
        self._b_CO[first:end].copy_(b, non_blocking=True)

    def blank(self, first: int, end: int) -> None:
        self._a_CI[first:end].zero_()
        self._b_CO[first:end].zero_()

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        step = self._step
        if step.end == step.first:
            return y
        self._reach(step.end)
        ranks = slice(step.start, step.end)
        h_TR = F.linear(x.reshape(-1, self.in_features).to(self._a_CI.dtype), self._a_CI[ranks])
        step.blank_foreign(h_TR)
        return y + (h_TR @ self._b_CO[ranks]).to(y.dtype).view(y.shape)


def quantized_linears(model: Any) -> tuple[type[nn.Linear], ...]:
    """The kinds of layers of a quantized model that can have adapters beside them: bitsandbytes'
    own, as they compute a linear layer of the usual sizes whatever holds their weights."""
    if getattr(model, "quantization_method", None) != QuantizationMethod.BITS_AND_BYTES:
        return ()
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    return (Linear4bit, Linear8bitLt)
