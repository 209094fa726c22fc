"""Linear layers that add to each token its own adapter's part.

Layers that read the same input (query, key and value; gate and up) are computed as one product.
The adapters lie side by side behind the weights, as columns: [W | B of each rank]. A step makes
x A^T for the ranks its adapters span, blanks in each token's row what is not its adapter's, puts
that behind x, and one product gives the layers' outputs, adapters included: two products and three
small operations per group, however many adapters and layers there are.

B stands at the rows of its own layer and is zero at those of the others, so that one product serves
a group: some memory and some multiplying by zero, against the setup of a product per layer.

Few tokens of small layers on CPU are multiplied each by its own factors instead: see `gathered`.

Shape letters: T tokens, I input size, O outputs of a group, M layers of a group, C ranks of all
adapters, R ranks of a step times M.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.engine.hf.lora.gathered import GatheredFactors
from workers.engine.hf.lora.parts import LayerWeights
from workers.engine.hf.lora.plan import MAX_OWN_TOKENS, AdapterStep, Block

FIRST_RANKS = 128
"""Room for so many is there from the start: making it means copying the weights."""
_FEW_TOKENS = 16
_SMALL_A = 16_384
"""On CPU, a product of so few tokens with an A of so few elements costs less in float32 than the
setup of one in a narrower type."""
_SMALL_WEIGHT = 200_000
"""The same of weights so small and at most MAX_OWN_TOKENS tokens: they are held in float32 too."""
_ALIASED_BYTES = 1024
"""Rows at multiples of this fall on few cache lines; padding spreads them."""


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
        self._small_weight, self._small_bias = self._widen_small()
        self._gathered = GatheredFactors(self.in_features, self.sizes)
        self._scales: dict[tuple[Block, int], Tensor] = {}
        """By adapter and layer."""
        self._scaled: list[tuple[Tensor | slice, slice, Tensor]] = []
        """Of the step: tokens, outputs, and what these are multiplied by."""
        self._add: Callable[[Tensor], Tensor] = self._add_all
        self._plan: object = None
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

    def _widen_small(self) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias in float32; the weight lies by inputs, which is faster."""
        weight, bias = self._weight, self._bias
        is_small = weight.device.type == "cpu" and weight.numel() <= _SMALL_WEIGHT
        if not is_small or weight.dtype == torch.float32:
            return None, None
        return weight.float().t().contiguous().t(), None if bias is None else bias.float()

    def _reach(self, end: int) -> None:
        """Makes room for ranks up to `end`."""
        if end > self._num_ranks:
            self._grow(min(max(end, 2 * self._num_ranks), self._max_ranks))

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
        self._span, self._plan = (0, 0), None

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
        end = first + a.shape[0]
        self._forget(first, end)
        self._reach(end)
        self._a_CMI[first:end, member].copy_(a, non_blocking=True)
        self._b_OC(member, first, end).copy_(b.t(), non_blocking=True)

    def rescale(self, member: int, block: Block, scale: Tensor) -> None:
        """Has the layer's own outputs multiplied for the adapter at `block`."""
        self._scales[block, member] = scale.to(self._joined.device)
        self._plan = None

    def blank(self, member: int, first: int, end: int) -> None:
        self._forget(first, end)
        self._scales.pop(((first, end), member), None)
        end = min(end, self._num_ranks)
        if first < end:
            self._a_CMI[first:end, member].zero_()
            self._b_OC(member, first, end).zero_()

    def _forget(self, first: int, end: int) -> None:
        self._span, self._plan = (0, 0), None
        self._gathered.forget(first, end)

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
            return self._compute_base(x)
        x_TI = x.reshape(-1, self.in_features)
        if self._plan is not step.planned:
            self._take_plan()
        y_TO = self._add(x_TI)
        return y_TO.view(*x.shape[:-1], y_TO.shape[1])

    def _compute_base(self, x: Tensor) -> Tensor:
        if self._small_weight is None or x.numel() > MAX_OWN_TOKENS * self.in_features:
            return F.linear(x, self._weight, self._bias)
        return F.linear(x.float(), self._small_weight, self._small_bias).to(x.dtype)

    def _take_plan(self) -> None:
        step, num_members = self._step, len(self.sizes)
        self._reach(step.end)  # of an adapter that may leave these layers alone
        self._add = self._add_all
        if self._scales and self._take_scales():
            self._add = self._add_scaled
        elif step.own is not None:
            b_OCM = self._joined[:, self.in_features :]
            b_OCM = b_OCM[:, : self._num_ranks * num_members].unflatten(1, (-1, num_members))
            if self._gathered.choose(step.own, self._a_CMI, b_OCM):
                self._add = self._add_own
        if self._add != self._add_own and self._span != (step.first, step.end):
            self._select()
        self._plan = step.planned

    def _take_scales(self) -> bool:
        """False if no adapter of the step has any here."""
        step = self._step
        self._scaled = [
            (
                step.rows_of(block, scale.device),
                slice(self._starts[member], self._starts[member] + self.sizes[member]),
                scale,
            )
            for (block, member), scale in self._scales.items()
            if block in step.used
        ]
        return bool(self._scaled)

    def _add_scaled(self, x_TI: Tensor) -> Tensor:
        """As `_add_all`, where some adapters scale what the base's weights give."""
        h_TR = self._own_ranks(x_TI)
        y_TO = F.linear(x_TI, self._weight)
        for rows_N, outputs, scale in self._scaled:
            y_TO[rows_N, outputs] = (y_TO[rows_N, outputs] * scale).to(y_TO.dtype)
        if self._bias is not None:
            y_TO += self._bias
        return y_TO.addmm_(h_TR, self._span_b.t())

    def _add_own(self, x_TI: Tensor) -> Tensor:
        wide_TI = x_TI.float()
        if self._small_weight is not None:
            y_TO = F.linear(wide_TI, self._small_weight, self._small_bias)
        else:
            y_TO = F.linear(x_TI, self._weight, self._bias).float()
        self._gathered.add(y_TO, wide_TI)
        return y_TO.to(x_TI.dtype)

    def _add_all(self, x_TI: Tensor) -> Tensor:
        """Of all adapters of the step; blanked in each token's row are the others'."""
        h_TR = self._own_ranks(x_TI)
        if not self._step.start:
            return F.linear(torch.cat((x_TI, h_TR), 1), self._span_joined, self._bias)
        return F.linear(x_TI, self._weight, self._bias).addmm_(h_TR, self._span_b.t())

    def _select(self) -> None:
        """What the step's stretch of ranks needs; the same while rows only decode."""
        step, num_members = self._step, len(self.sizes)
        behind = self.in_features + step.end * num_members
        self._span_joined = self._joined[:, :behind]
        self._span_b = self._joined[:, self.in_features + step.start * num_members : behind]
        self._span_a = self._a_CMI[step.start : step.end].flatten(0, 1)
        self._small_a = None
        self._span = (step.first, step.end)

    def _own_ranks(self, x_TI: Tensor) -> Tensor:
        """x A^T, zero where not the token's own."""
        a_RI = self._span_a
        is_small = a_RI.device.type == "cpu" and a_RI.numel() <= _SMALL_A
        if is_small and x_TI.shape[0] <= _FEW_TOKENS:
            if self._small_a is None:
                self._small_a = a_RI.float()
            h_TR = F.linear(x_TI.float(), self._small_a)
        else:
            h_TR = F.linear(x_TI, a_RI)
        self._step.blank_foreign(h_TR, len(self.sizes))
        return h_TR.to(x_TI.dtype)


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

    def base_weight(self) -> Tensor | None:
        return self.weight

    def take(self, first: int, end: int, part: LayerWeights) -> None:
        if part.factors is not None:
            self.install(first, *part.factors)
        if part.scale is not None:
            self._group.rescale(self._member, (first, end), part.scale)

    def install(self, first: int, a: Tensor, b: Tensor) -> None:
        self._group.install(self._member, first, a, b)

    def blank(self, first: int, end: int) -> None:
        self._group.blank(self._member, first, end)

    def forward(self, x: Tensor) -> Tensor:
        return self._group.output(self._member, x)
