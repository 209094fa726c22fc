"""A linear layer that adds to each token its own adapter's part.

All resident adapters of a layer lie side by side in two matrices, A [C, in] and B [C, out], where C
counts ranks. A step takes the stretch of C that its adapters span, computes x A^T for all tokens at
once, blanks in each token's row what is not its adapter's, and adds that times B: two matrix
products however many adapters there are.
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

    def clear(self) -> None:
        self.first = self.end = 0
        self.foreign = None


class LoraLinear(nn.Module):
    def __init__(self, base: nn.Linear, width: int, step: AdapterStep) -> None:
        super().__init__()
        self.base = base
        self._width = width
        self._step = step
        self._a: Tensor | None = None
        self._b: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def install(self, first: int, a: Tensor, b: Tensor) -> None:
        """Puts an adapter's factors at column `first`. Memory is taken with the first adapter."""
        if self._a is None or self._b is None:
            like = self.base.weight
            self._a = like.new_zeros(self._width, self.base.in_features)
            self._b = like.new_zeros(self._width, self.base.out_features)
        self._a[first : first + a.shape[0]].copy_(a, non_blocking=True)
        self._b[first : first + b.shape[0]].copy_(b, non_blocking=True)

    def blank(self, first: int, end: int) -> None:
        if self._a is not None and self._b is not None:
            self._a[first:end].zero_()
            self._b[first:end].zero_()

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        step, a, b = self._step, self._a, self._b
        if step.end == step.first or a is None or b is None:
            return y
        h = F.linear(x.reshape(-1, x.shape[-1]), a[step.first : step.end])
        if step.foreign is not None:
            h.masked_fill_(step.foreign, 0.0)
        y.view(-1, y.shape[-1]).addmm_(h, b[step.first : step.end])
        return y


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
