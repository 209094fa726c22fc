"""Whose adapters the tokens of a step use: planned once, for all layers of a model.

Shape letters as in `layer`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

MAX_OWN_TOKENS = 8
"""So few decoding tokens are multiplied each by its own adapter's factors, on CPU."""
_FEW_RANKS = 64
"""So many ranks before the stretch are computed in vain rather than by another product."""
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

Block = tuple[int, int]
"""The ranks of an adapter, first and end, in the arena of every layer; (0, 0) is the base model."""


@dataclass(slots=True)
class AdapterStep:
    """Shared by all layers of a model: what this step's tokens use. `foreign` [T, C] is True where
    a rank is not of the token's adapter; None if all tokens use one adapter alone. Its first column
    is rank `start`: that of the stretch, or 0 if the ranks before it are computed in vain."""

    first: int = 0
    end: int = 0
    start: int = 0
    foreign: Tensor | None = None
    own: list[Block] | None = None
    """Of each token, where there are few, and no more of any sequence than one."""
    planned: tuple[list[Block], list[int]] | None = None
    """What it was made for: while rows only decode, the next step is the same object."""
    used: frozenset[Block] = frozenset()
    """The adapters among them."""
    is_one: bool = False
    """All tokens are of one adapter, or of the base, however many a layer sees."""
    keep: list[int] | None = None
    """Which tokens reach the output layer; None: all."""
    _rows: dict[Block, Tensor] = field(default_factory=dict[Block, Tensor])
    _kept: dict[tuple[int, torch.dtype], Tensor] = field(
        default_factory=dict[tuple[int, torch.dtype], Tensor]
    )

    def plan(self, blocks: list[Block], counts: list[int]) -> None:
        self.planned = (blocks, counts)
        self.used = frozenset(block for block in blocks if block[1])
        self.is_one = False
        self._rows.clear()

    def rows_of(self, block: Block, device: torch.device) -> Tensor | slice:
        """Which tokens of the step are of the adapter at `block`."""
        assert self.planned is not None
        if self.is_one:
            return slice(None)
        found = self._rows.get(block)
        if found is None:
            blocks, counts = self.planned
            is_own = torch.tensor([other == block for other in blocks])
            found = is_own.repeat_interleave(torch.tensor(counts)).nonzero()[:, 0].to(device)
            self._rows[block] = found
        return found

    def kept_rows_of(self, block: Block, device: torch.device) -> Tensor | slice:
        """The same of the tokens that reach the output layer, counted among these."""
        rows = self.rows_of(block, device)
        if self.keep is None or isinstance(rows, slice):
            return rows
        kept = torch.tensor(self.keep, device=device, dtype=torch.long)
        return torch.isin(kept, rows).nonzero()[:, 0]

    def clear(self) -> None:
        self.first = self.end = self.start = 0
        self.own = None
        self.set_foreign(None)

    def set_foreign(self, foreign: Tensor | None) -> None:
        self.foreign = foreign
        self._kept.clear()

    def blank_foreign(self, h_TR: Tensor, num_layers: int = 1) -> None:
        """Zeroes what is not of a token's own adapter, for a group of that many layers. By the bits
        and not by a factor, as what another's adapter makes of a token may be infinite; a tenth of
        the time of `masked_fill_`, which torch has no vector code for."""
        if self.foreign is None:
            return
        bits = _BITS[h_TR.itemsize]
        kept = self._kept.get((num_layers, bits))
        if kept is None:
            kept = self.foreign.logical_not().to(bits).neg_().repeat_interleave(num_layers, 1)
            self._kept[num_layers, bits] = kept
        h_TR.view(bits).bitwise_and_(kept)


def plan_adapters(
    step: AdapterStep, blocks: list[Block], counts: list[int], device: torch.device
) -> None:
    """Sets `step` for runs of tokens: `counts[i]` tokens of the adapter at `blocks[i]`."""
    if step.planned == (blocks, counts):
        return
    step.plan(blocks, counts)
    used = step.used
    if not used:
        step.clear()
        return
    is_few = device.type == "cpu" and len(counts) == sum(counts) <= MAX_OWN_TOKENS
    step.own = blocks if is_few else None
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


def plan_one_adapter(step: AdapterStep, block: Block) -> None:
    """Sets `step` for tokens of one adapter alone, however many of them a layer sees."""
    if step.planned == ([block], [0]):
        return
    step.plan([block], [0])
    step.clear()
    step.is_one = True
    step.first, step.end = block
    step.start = step.first
