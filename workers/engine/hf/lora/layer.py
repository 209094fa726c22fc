"""Linear layers that add to each token its own adapter's part.

Layers that read the same input (query, key and value; gate and up) are computed as one product.
All resident adapters lie side by side behind the weights: rows [W of each layer; A of each rank],
so that the same product gives the layers' outputs and x A^T. A step takes the stretch of ranks
that its adapters span, blanks in each token's row what is not its adapter's, and adds that times B:
one large product and one small one per layer, however many adapters there are.

Shape letters: T tokens, M layers of a group, C ranks of all adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEW_TOKENS = 16
"""Up to here a product with B costs less in float32 than in bfloat16, on CPU."""
_FEW_RANKS = 64
"""So many ranks before the stretch are computed in vain rather than by another product."""


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


class SharedInput:
    """The linear layers that read one input, and the adapters of each.

    On CPU, B is kept in float32 whatever the model's dtype: a product over so few ranks costs less
    in float32 than the setup of one in bfloat16."""

    def __init__(self, linears: Sequence[nn.Linear], width: int, step: AdapterStep) -> None:
        self.in_features = linears[0].in_features
        self.sizes = [linear.out_features for linear in linears]
        self._num_out = sum(self.sizes)
        self._width = width
        self._step = step
        alone = len(linears) == 1
        weights = [linear.weight.data for linear in linears]
        self._rows = weights[0] if alone else torch.cat(weights)
        self._bias = self._join_biases(linears)
        self._factor_dtype = self._rows.dtype
        if self._rows.device.type == "cpu":
            self._factor_dtype = torch.float32
        self._a_CMI: Tensor | None = None
        self._b: list[Tensor | None] = [None] * len(linears)
        self._span = (0, 0)
        self._first_rank_row = 0
        self._span_rows = self._rows
        self._span_bias: Tensor | None = None
        self._span_a: Tensor | None = None
        self._span_b: list[Tensor | None] = []
        self._input: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()
        self._num_taken = 0

    def _join_biases(self, linears: Sequence[nn.Linear]) -> Tensor | None:
        """Of the rows of A too, where it is zero."""
        if all(linear.bias is None for linear in linears):  # pyright: ignore
            return None
        bias = self._rows.new_zeros(self._num_out + self._width * len(linears))
        for part, linear in zip(bias[: self._num_out].split(self.sizes), linears, strict=True):
            if linear.bias is not None:  # pyright: ignore
                part.copy_(linear.bias.data)
        return bias

    def weight(self, member: int) -> Tensor:
        return self._rows[: self._num_out].split(self.sizes)[member]

    def bias(self, member: int) -> Tensor | None:
        bias = self._bias
        return None if bias is None else bias[: self._num_out].split(self.sizes)[member]

    def install(self, member: int, first: int, a: Tensor, b: Tensor) -> None:
        """Puts an adapter's factors at rank `first`. Memory is taken with the first adapter."""
        self._span = (0, 0)
        if self._a_CMI is None:
            num_rows = self._num_out + self._width * len(self.sizes)
            rows = self._rows.new_zeros(num_rows, self.in_features)
            rows[: self._num_out].copy_(self._rows)
            shape = (self._width, len(self.sizes), self.in_features)
            self._rows = self._span_rows = rows
            self._a_CMI = rows[self._num_out :].view(shape)
        b_CO = self._b[member]
        if b_CO is None:
            b_CO = self._b[member] = self._rows.new_zeros(
                (self._width, self.sizes[member]), dtype=self._factor_dtype
            )
        self._a_CMI[first : first + a.shape[0], member].copy_(a, non_blocking=True)
        b_CO[first : first + b.shape[0]].copy_(b, non_blocking=True)

    def blank(self, member: int, first: int, end: int) -> None:
        if self._a_CMI is not None:
            self._a_CMI[first:end, member].zero_()
        b_CO = self._b[member]
        if b_CO is not None:
            b_CO[first:end].zero_()

    def output(self, member: int, x: Tensor) -> Tensor:
        """Layer `member` of `x`. The first layer asked computes for all, the last forgets: the
        input is compared as an object, which none can replace while it is held here."""
        if len(self.sizes) == 1:
            return self._compute(x)[0]
        if x is not self._input:
            self._input, self._outputs, self._num_taken = x, self._compute(x), 0
        found = self._outputs[member]
        self._num_taken += 1
        if self._num_taken == len(self.sizes):
            self._input, self._outputs = None, ()
        return found

    def _compute(self, x: Tensor) -> tuple[Tensor, ...]:
        step, a_CMI, num_out = self._step, self._a_CMI, self._num_out
        if step.end == step.first or a_CMI is None:
            bias = None if self._bias is None else self._bias[:num_out]
            return F.linear(x, self._rows[:num_out], bias).split(self.sizes, -1)
        if self._span != (step.first, step.end):
            self._select(step.first, step.end)
        x_TI = x.reshape(-1, self.in_features)
        y_TO = F.linear(x_TI, self._span_rows, self._span_bias)
        h_TR = y_TO[:, self._first_rank_row :]
        if self._span_a is not None:
            h_TR = F.linear(x_TI, self._span_a)
        h_MTC = self._own_ranks(h_TR.unflatten(-1, (-1, len(self.sizes))).permute(2, 0, 1))
        outputs = y_TO[:, :num_out].split(self.sizes, -1)
        for y_TO, h_TC, b_CO in zip(outputs, h_MTC, self._span_b, strict=True):
            if b_CO is None:
                continue
            if h_TC.dtype == y_TO.dtype:
                y_TO.addmm_(h_TC, b_CO.to(y_TO.dtype))
            else:
                y_TO += h_TC @ b_CO
        return tuple(y.view(*x.shape[:-1], y.shape[-1]) for y in outputs)

    def _select(self, first: int, end: int) -> None:
        """Views of what ranks `first` to `end` need; the same while rows only decode."""
        assert self._a_CMI is not None
        num_members = len(self.sizes)
        is_apart = first > _FEW_RANKS
        num_rows = self._num_out + (0 if is_apart else end * num_members)
        self._first_rank_row = self._num_out + (0 if is_apart else first * num_members)
        self._span_rows = self._rows[:num_rows]
        self._span_bias = None if self._bias is None else self._bias[:num_rows]
        self._span_a = self._a_CMI[first:end].flatten(0, 1) if is_apart else None
        self._span_b = [None if b is None else b[first:end] for b in self._b]
        self._span = (first, end)

    def _own_ranks(self, h_MTC: Tensor) -> Tensor:
        """Contiguous, zero where not the token's own. Assigned, not multiplied: what another's
        adapter makes of a token may be infinite."""
        is_few = h_MTC.shape[1] <= _FEW_TOKENS
        dtype = self._factor_dtype if is_few else h_MTC.dtype
        own = torch.empty(h_MTC.shape, dtype=dtype, device=h_MTC.device).copy_(h_MTC)
        return own if self._step.foreign is None else own.masked_fill_(self._step.foreign, 0.0)


class LoraLinear(nn.Module):
    """Stands in for an `nn.Linear`: one layer of a group."""

    def __init__(self, group: SharedInput, member: int) -> None:
        super().__init__()
        self._group = group
        self._member = member
        self.in_features = group.in_features
        self.out_features = group.sizes[member]

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
    if len(used) == 1 and (0, 0) not in blocks:
        step.foreign = None
        return
    columns = torch.arange(step.first, step.end)[None, :]
    per_run = torch.tensor(blocks)
    foreign = (columns < per_run[:, :1]) | (columns >= per_run[:, 1:])
    step.foreign = foreign.repeat_interleave(torch.tensor(counts), 0).to(device)
