"""Linear layers that add to each token its own adapter's part.

Layers that read the same input (query, key and value; gate and up) are computed as one product.
The adapters lie side by side behind the weights, as columns: [W | B of each rank]. A step makes
x A^T for the ranks its adapters span, blanks in each token's row what is not its adapter's, puts
that behind x, and one product gives the layers' outputs, adapters included: two products and three
small operations per group, however many adapters and layers there are.

B stands at the rows of its own layer and is zero at those of the others, so that one product serves
a group: some memory and some multiplying by zero, against the setup of a product per layer.

Shape letters: T tokens, I input size, O outputs of a group, M layers of a group, C ranks of all
adapters, R ranks of a step times M.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST_RANKS = 128
"""Room for so many is there from the start: making it means copying the weights."""
_FEW_RANKS = 64
"""So many ranks before the stretch are computed in vain rather than by another product."""
_FEW_TOKENS = 16
_SMALL_A = 16_384
"""On CPU, a product of so few tokens with an A of so few elements costs less in float32 than the
setup of one in a narrower type."""
_ALIASED_BYTES = 1024
"""Rows at multiples of this fall on few cache lines; padding spreads them."""


@dataclass(slots=True)
class AdapterStep:
    """Shared by all layers of a model: what this step's tokens use. `foreign` [T, C] is True where
    a rank is not of the token's adapter; None if all tokens use one adapter alone. Its first column
    is rank `start`: that of the stretch, or 0 if the ranks before it are computed in vain."""

    first: int = 0
    end: int = 0
    start: int = 0
    foreign: Tensor | None = None
    planned: tuple[list[tuple[int, int]], list[int]] | None = None
    """What it was made for: while rows only decode, the next step is the same."""
    _repeated: dict[int, Tensor] = field(default_factory=dict[int, Tensor])

    def clear(self) -> None:
        self.first = self.end = self.start = 0
        self.set_foreign(None)
        self.foreign = None

    def foreign_to(self, num_layers: int) -> Tensor | None:
        """[T, R] for a group of that many layers, each rank once per layer."""
        if self.foreign is None or num_layers == 1:
            return self.foreign
        if num_layers not in self._repeated:
            self._repeated[num_layers] = self.foreign.repeat_interleave(num_layers, 1)
        return self._repeated[num_layers]

    def set_foreign(self, foreign: Tensor | None) -> None:
        self.foreign = foreign
        self._repeated.clear()


class SharedInput:
    """The linear layers that read one input, and the adapters of each."""

    def __init__(self, linears: Sequence[nn.Linear], width: int, step: AdapterStep) -> None:
        self.in_features = linears[0].in_features
        self.sizes = [linear.out_features for linear in linears]
        self._starts = [sum(self.sizes[:member]) for member in range(len(linears))]
        self._max_ranks = width
        self._num_ranks = 0
        self._step = step
        weights = [linear.weight.data for linear in linears]
        self._joined = weights[0] if len(weights) == 1 else torch.cat(weights)
        self._weight = self._joined
        self._a_CMI = self._joined.new_zeros(0, len(linears), self.in_features)
        self._bias = self._join_biases(linears)
        self._span = (0, 0)
        self._span_joined = self._joined
        self._span_a = self._span_b = self._a_CMI
        self._small_a: Tensor | None = None
        self._input: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()
        self._num_taken = 0
        if width:
            self._grow(min(width, FIRST_RANKS))

    def _join_biases(self, linears: Sequence[nn.Linear]) -> Tensor | None:
        if all(linear.bias is None for linear in linears):  # pyright: ignore
            return None
        bias = self._joined.new_zeros(sum(self.sizes))
        for part, linear in zip(bias.split(self.sizes), linears, strict=True):
            if linear.bias is not None:  # pyright: ignore
                part.copy_(linear.bias.data)
        return bias

    def _grow(self, num_ranks: int) -> None:
        num_members, size = len(self.sizes), self.in_features
        num_columns = size + num_ranks * num_members
        item_bytes = self._joined.itemsize
        if num_columns * item_bytes % _ALIASED_BYTES == 0:
            num_columns += 64 // item_bytes
        joined = self._joined.new_zeros(self._joined.shape[0], num_columns)
        kept = size + self._num_ranks * num_members
        joined[:, :kept].copy_(self._joined[:, :kept])
        a_CMI = self._a_CMI.new_zeros(num_ranks, num_members, size)
        a_CMI[: self._num_ranks].copy_(self._a_CMI)
        self._joined, self._a_CMI, self._num_ranks = joined, a_CMI, num_ranks
        self._weight = joined[:, :size]
        self._span = (0, 0)

    def weight(self, member: int) -> Tensor:
        return self._weight.split(self.sizes)[member]

    def bias(self, member: int) -> Tensor | None:
        return None if self._bias is None else self._bias.split(self.sizes)[member]

    def _b_OC(self, member: int, first: int, end: int) -> Tensor:
        rows = slice(self._starts[member], self._starts[member] + self.sizes[member])
        num_members, size = len(self.sizes), self.in_features
        columns = slice(size + first * num_members + member, size + end * num_members, num_members)
        return self._joined[rows, columns]

    def install(self, member: int, first: int, a: Tensor, b: Tensor) -> None:
        """Puts an adapter's factors at rank `first`."""
        self._span = (0, 0)
        end = first + a.shape[0]
        if end > self._num_ranks:
            self._grow(min(max(end, 2 * self._num_ranks), self._max_ranks))
        self._a_CMI[first:end, member].copy_(a, non_blocking=True)
        self._b_OC(member, first, end).copy_(b.t(), non_blocking=True)

    def blank(self, member: int, first: int, end: int) -> None:
        self._span = (0, 0)
        end = min(end, self._num_ranks)
        if first < end:
            self._a_CMI[first:end, member].zero_()
            self._b_OC(member, first, end).zero_()

    def output(self, member: int, x: Tensor) -> Tensor:
        """Layer `member` of `x`. The first layer asked computes for all, the last forgets: the
        input is compared as an object, which none can replace while it is held here."""
        if len(self.sizes) == 1:
            return self.compute(x)
        if x is not self._input:
            outputs = self.compute(x).split(self.sizes, -1)
            self._input, self._outputs, self._num_taken = x, outputs, 0
        found = self._outputs[member]
        self._num_taken += 1
        if self._num_taken == len(self.sizes):
            self._input, self._outputs = None, ()
        return found

    def compute(self, x: Tensor) -> Tensor:
        """The outputs of all layers of the group, one behind the other."""
        step = self._step
        if step.end == step.first:
            return F.linear(x, self._weight, self._bias)
        if self._span != (step.first, step.end):
            self._select()
        x_TI = x.reshape(-1, self.in_features)
        h_TR = self._own_ranks(x_TI)
        if step.start:
            y_TO = F.linear(x_TI, self._weight, self._bias)
            y_TO.addmm_(h_TR, self._span_b.t())
        else:
            y_TO = F.linear(torch.cat((x_TI, h_TR), 1), self._span_joined, self._bias)
        return y_TO.view(*x.shape[:-1], y_TO.shape[1])

    def _select(self) -> None:
        """What the step's stretch of ranks needs; the same while rows only decode."""
        step, num_members = self._step, len(self.sizes)
        if step.end > self._num_ranks:  # of an adapter that leaves these layers alone
            self._grow(min(max(step.end, 2 * self._num_ranks), self._max_ranks))
        behind = self.in_features + step.end * num_members
        self._span_joined = self._joined[:, :behind]
        self._span_b = self._joined[:, self.in_features + step.start * num_members : behind]
        self._span_a = self._a_CMI[step.start : step.end].flatten(0, 1)
        is_small = self._span_a.device.type == "cpu" and self._span_a.numel() <= _SMALL_A
        is_small = is_small and self._span_a.dtype != torch.float32
        self._small_a = self._span_a.float() if is_small else None
        self._span = (step.first, step.end)

    def _own_ranks(self, x_TI: Tensor) -> Tensor:
        """x A^T, zero where not the token's own. Assigned, not multiplied: what another's adapter
        makes of a token may be infinite."""
        foreign = self._step.foreign_to(len(self.sizes))
        if self._small_a is not None and x_TI.shape[0] <= _FEW_TOKENS:
            h_TR = F.linear(x_TI.float(), self._small_a)
            return (h_TR if foreign is None else h_TR.masked_fill_(foreign, 0.0)).to(x_TI.dtype)
        h_TR = F.linear(x_TI, self._span_a)
        return h_TR if foreign is None else h_TR.masked_fill_(foreign, 0.0)


class AdaptedLayer(Protocol):
    """A layer of the model that adapters can be added to."""

    in_features: int
    out_features: int

    def install(self, first: int, a: Tensor, b: Tensor) -> None:
        """Puts an adapter's factors, A [rank, in] and B transposed [rank, out], at rank `first`."""
        ...

    def blank(self, first: int, end: int) -> None: ...


class LoraLinear(nn.Module):
    """Stands in for an `nn.Linear`: one layer of a group."""

    def __init__(self, group: SharedInput, member: int) -> None:
        super().__init__()
        self._group = group
        self._member = member
        self.in_features = group.in_features
        self.out_features = group.sizes[member]

    @property
    def group(self) -> SharedInput:
        return self._group

    @property
    def weight(self) -> Tensor:
        return self._group.weight(self._member)

    @property
    def bias(self) -> Tensor | None:
        return self._group.bias(self._member)

    def install(self, first: int, a: Tensor, b: Tensor) -> None:
        self._group.install(self._member, first, a, b)

    def blank(self, first: int, end: int) -> None:
        self._group.blank(self._member, first, end)

    def forward(self, x: Tensor) -> Tensor:
        return self._group.output(self._member, x)


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
    step.start = step.first if step.first > _FEW_RANKS else 0
    if len(used) == 1 and step.first == step.start and (0, 0) not in blocks:
        step.set_foreign(None)
        return
    columns = torch.arange(step.start, step.end)[None, :]
    per_run = torch.tensor(blocks)
    foreign = (columns < per_run[:, :1]) | (columns >= per_run[:, 1:])
    step.set_foreign(foreign.repeat_interleave(torch.tensor(counts), 0).to(device))
