"""A linear layer that adds to each token its own adapter's part.

All resident adapters of a layer lie side by side in two matrices, A [C, in] and B [C, out], where C
counts ranks. A step takes the stretch of C that its adapters span, computes x A^T for all tokens at
once, blanks in each token's row what is not its adapter's, and adds that times B: two matrix
products in all, however many adapters there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(slots=True)
class AdapterStep:
    """Shared by all layers of a model: what this step's tokens use. `foreign` [T, C] is True where
    a column is not of the token's adapter; None if all tokens use one adapter alone."""

    first: int = 0
    end: int = 0
    foreign: Tensor | None = None
    planned: tuple[list[tuple[int, int]], list[int]] | None = None
    """What it was made for: while rows only decode, the next step is the same."""

    def clear(self) -> None:
        self.first = self.end = 0
        self.foreign = None


class LoraLinear(nn.Module):
    """Stands in for an `nn.Linear`. A follows the layer's own weight in one tensor, so that one
    product gives both the layer's output and x A^T."""

    def __init__(self, base: nn.Linear, width: int, step: AdapterStep) -> None:
        super().__init__()
        self.in_features = base.in_features
        self.out_features = base.out_features
        self._weight: Tensor = base.weight.data
        self._bias: Tensor | None = getattr(base.bias, "data", None)
        self._width = width
        self._step = step
        self._extended: Tensor | None = None
        self._b: Tensor | None = None
        self._span = (0, 0)
        self._both_view = self._b_view = self._weight

    @property
    def weight(self) -> Tensor:
        return self._weight

    @property
    def bias(self) -> Tensor | None:
        return self._bias

    def install(self, first: int, a: Tensor, b: Tensor) -> None:
        """Puts an adapter's factors at column `first`. Memory is taken with the first adapter."""
        if self._extended is None or self._b is None:
            self._b = self._weight.new_zeros(self._width, self.out_features)
            extended = self._weight.new_zeros(self.out_features + self._width, self.in_features)
            extended[: self.out_features].copy_(self._weight)
            self._extended, self._weight = extended, extended[: self.out_features]
            self._span = (0, 0)
        start = self.out_features + first
        self._extended[start : start + a.shape[0]].copy_(a, non_blocking=True)
        self._b[first : first + b.shape[0]].copy_(b, non_blocking=True)

    def blank(self, first: int, end: int) -> None:
        if self._extended is not None and self._b is not None:
            self._extended[self.out_features + first : self.out_features + end].zero_()
            self._b[first:end].zero_()

    def forward(self, x: Tensor) -> Tensor:
        step, extended, b = self._step, self._extended, self._b
        first, end = step.first, step.end
        if end == first or extended is None or b is None:
            return F.linear(x, self._weight, self._bias)
        num_out = self.out_features
        if self._span != (first, end):
            self._span = (first, end)
            self._both_view, self._b_view = extended[: num_out + end], b[first:end]
        both = F.linear(x.reshape(-1, x.shape[-1]), self._both_view)
        h = both[:, num_out + first :]
        if step.foreign is not None:
            h = h.masked_fill(step.foreign, 0.0)
        y = torch.addmm(both[:, :num_out], h, self._b_view)
        if self._bias is not None:
            y += self._bias
        return y.view(*x.shape[:-1], num_out)


def wrap_linears(model: nn.Module, width: int, step: AdapterStep) -> dict[str, LoraLinear]:
    """Replaces every linear layer but the output layer; gives them by name. The output layer sees
    only the tokens that are sampled, so it cannot tell whose they are."""
    output_layer = getattr(model, "get_output_embeddings", lambda: None)()
    wrapped: dict[str, LoraLinear] = {}
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module is not output_layer:
            parent_name, _, child = name.rpartition(".")
            layer = LoraLinear(module, width, step)
            setattr(model.get_submodule(parent_name), child, layer)
            wrapped[name] = layer
    return wrapped


def plan_adapters(
    step: AdapterStep, blocks: list[tuple[int, int]], counts: list[int], device: torch.device
) -> None:
    """Sets `step` for runs of tokens: `counts[i]` tokens of the adapter at columns `blocks[i]`,
    where (0, 0) is the base model."""
    if step.planned == (blocks, counts):
        return
    step.planned = (blocks, counts)
    used = {block for block in blocks if block[1]}
    if not used:
        step.clear()
        return
    step.first = min(first for first, _ in used)
    step.end = max(end for _, end in used)
    if len(used) == 1 and (0, 0) not in blocks:
        step.foreign = None
        return
    columns = torch.arange(step.first, step.end)[None, :]
    per_run = torch.tensor(blocks)
    foreign = (columns < per_run[:, :1]) | (columns >= per_run[:, 1:])
    step.foreign = foreign.repeat_interleave(torch.tensor(counts), 0).to(device)
