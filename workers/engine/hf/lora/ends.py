"""Adapters on a model's two ends, its embeddings and its output layer: LoRA, DoRA, or weights of
their own in place of the base's.

These layers are large and few adapters have any, so nothing is laid side by side: a step runs the
base's layer for all its tokens, then that of each adapter in it for its own tokens. The output
layer sees only the tokens whose logits are wanted (`AdapterStep.keep`).

Shape letters: T tokens, N tokens of one adapter, I hidden size, R ranks, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.engine.hf.lora.parts import LayerWeights
from workers.engine.hf.lora.plan import AdapterStep, Block


class _End(nn.Module):
    def __init__(self, stock: Any, step: AdapterStep) -> None:
        super().__init__()
        self.stock = stock
        self.out_features, self.in_features = stock.weight.shape
        self._step = step
        self._parts: dict[Block, LayerWeights] = {}

    @property
    def weight(self) -> Tensor:
        return self.stock.weight

    def base_weight(self) -> Tensor | None:
        return self.stock.weight

    def take(self, first: int, end: int, part: LayerWeights) -> None:
        weight = self.stock.weight
        self._parts[first, end] = part.moved(weight.device, weight.dtype)

    def blank(self, first: int, end: int) -> None:
        self._parts.pop((first, end), None)

    def _of_step(self) -> Iterator[tuple[Block, LayerWeights]]:
        used = self._step.used
        return ((block, part) for block, part in self._parts.items() if block in used)


class LoraEmbedding(_End):
    """Stands in for an `nn.Embedding`, or a kind of it that scales what it looks up."""

    def forward(self, ids: Tensor) -> Tensor:
        y = self.stock(ids)
        return self._adapt(ids, y) if self._parts else y

    def _adapt(self, ids: Tensor, y: Tensor) -> Tensor:
        y_TI, ids_T = y.view(-1, y.shape[-1]), ids.reshape(-1)
        factor = getattr(self.stock, "embed_scale", 1.0)
        for block, part in self._of_step():
            rows_N = self._step.rows_of(block, y.device)
            ids_N = ids_T[rows_N]
            own_NI = F.embedding(ids_N, self.weight if part.whole is None else part.whole)
            if part.scale is not None:
                own_NI = own_NI * part.scale
            if part.factors is not None:
                a_RV, b_RI = part.factors
                own_NI = own_NI + a_RV[:, ids_N].t() @ b_RI
            y_TI[rows_N] = (own_NI * factor).to(y.dtype)
        return y


class LoraHead(_End):
    """Stands in for the output layer, an `nn.Linear`."""

    @property
    def bias(self) -> Tensor | None:
        return self.stock.bias

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.stock.weight, self.stock.bias)
        return self._adapt(x, y) if self._parts else y

    def _adapt(self, x: Tensor, y: Tensor) -> Tensor:
        y_TV, x_TI = y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
        for block, part in self._of_step():
            rows_N = self._step.kept_rows_of(block, y.device)
            if isinstance(rows_N, Tensor) and not rows_N.numel():
                continue
            x_NI = x_TI[rows_N]
            if part.whole is None and part.scale is None:
                own_NV = y_TV[rows_N]
            else:
                weight = self.weight if part.whole is None else part.whole
                own_NV = F.linear(x_NI, weight)
                if part.scale is not None:
                    own_NV = own_NV * part.scale
                if self.bias is not None:
                    own_NV = own_NV + self.bias
            if part.factors is not None:
                a_RI, b_RV = part.factors
                own_NV = own_NV + (x_NI @ a_RI.t()) @ b_RV
            y_TV[rows_N] = own_NV.to(y.dtype)
        return y


def wrap_ends(model: Any, step: AdapterStep) -> dict[str, LoraEmbedding | LoraHead]:
    """Puts places for adapters at both ends of the model, where they are of a kind that is known;
    gives them by their names in the model."""
    wrapped: dict[str, LoraEmbedding | LoraHead] = {}
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules()}
    if _is_known_embedding(embeddings):
        wrapped[names[embeddings]] = LoraEmbedding(embeddings, step)
    if type(head) is nn.Linear:
        wrapped[names[head]] = LoraHead(head, step)
    for name, end in wrapped.items():
        parent_name, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent_name), child, end)
    return wrapped


def _is_known_embedding(module: object) -> bool:
    if not isinstance(module, nn.Embedding) or module.max_norm is not None:
        return False
    return type(module) is nn.Embedding or isinstance(
        getattr(module, "embed_scale", None), float | torch.Tensor
    )
