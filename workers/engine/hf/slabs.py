"""A slab: room for the keys and values of a number of rows of one length.

It has per layer one tensor [rows, heads, length, head size], so that attention over decoding rows
side by side reads a view.

Shape letters: R rows, K key/value heads, L length in tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

MIN_LENGTH = 64
"""Of a slab's rows: shorter ones take as much."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    num_heads: int
    key_size: int
    value_size: int


@dataclass(slots=True, eq=False)
class Row:
    """Somebody's keys and values: those of `num_computed` tokens lie in row `slot` of the slab."""

    slab: Slab | None = None
    slot: int = 0
    num_computed: int = 0
    num_coming: int = 0
    """Tokens that are known and will be computed."""

    @property
    def num_held(self) -> int:
        return max(MIN_LENGTH, self.num_computed, self.num_coming)

    @property
    def length(self) -> int:
        """How many tokens it has room for."""
        return 0 if self.slab is None else self.slab.length


class Slab:
    def __init__(
        self,
        layers: Sequence[LayerShape],
        num_slots: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._layers = layers
        self._dtype = dtype
        self._device = device
        self.slots: list[Row | None] = []
        """Up to the last row."""
        self.num_slots = 0
        self.length = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.resize(num_slots, length)

    @property
    def rows(self) -> list[Row]:
        return [row for row in self.slots if row is not None]

    @property
    def num_rows(self) -> int:
        return len(self.slots) - self.slots.count(None)

    @property
    def num_runs(self) -> int:
        """Groups of rows side by side."""
        if None not in self.slots:
            return 1
        pairs = pairwise([None, *self.slots])
        return sum(before is None and row is not None for before, row in pairs)

    @property
    def num_free(self) -> int:
        return self.num_slots - self.num_rows

    @property
    def num_tokens(self) -> int:
        """What its memory has room for."""
        return self.num_slots * self.length

    def take(self, row: Row) -> None:
        """The first free slot is the row's new place, with what it holds in its old one."""
        slot = self.slots.index(None) if None in self.slots else len(self.slots)
        copy_tokens(row, Row(self, slot), row.num_computed)
        if slot == len(self.slots):
            self.slots.append(None)
        self.slots[slot] = row
        if row.slab is not None:
            row.slab.clear(row.slot)
        row.slab, row.slot = self, slot

    def clear(self, slot: int) -> None:
        self.slots[slot] = None
        while self.slots and self.slots[-1] is None:
            self.slots.pop()

    def close_gaps(self) -> None:
        while None in self.slots:
            self.take(self.rows[-1])

    def resize(self, num_slots: int, length: int) -> None:
        """What the rows hold stays. Out of memory half-way, some layers have the old size and some
        the new: what both have is then the size, and nothing in it is lost."""
        self.close_gaps()
        try:
            self._allocate(num_slots, length)
        except (MemoryError, RuntimeError):
            if self.num_slots:
                self.num_slots = min(num_slots, self.num_slots)
                self.length = min(length, self.length)
            raise
        self.num_slots, self.length = num_slots, length

    def _allocate(self, num_slots: int, length: int) -> None:
        """One layer at a time, so that little more than one layer is held twice. Zeroed: what
        attention masks out must still be finite."""
        rows = self.rows
        longest = max((row.num_computed for row in rows), default=0)
        for index, layer in enumerate(self._layers):
            for tensors, size in ((self.keys, layer.key_size), (self.values, layer.value_size)):
                shape = (num_slots, layer.num_heads, length, size)
                new_RKLD = torch.zeros(shape, dtype=self._dtype, device=self._device)
                if index == len(tensors):
                    tensors.append(new_RKLD)
                    continue
                if longest:
                    kept = tensors[index][: len(rows), :, :longest]
                    new_RKLD[: len(rows), :, :longest].copy_(kept)
                tensors[index] = new_RKLD


def copy_tokens(source: Row, target: Row, num_tokens: int) -> None:
    """Row `target` begins with the first tokens of row `source`."""
    if not num_tokens:
        return
    a, b = source.slab, target.slab
    assert a is not None, "a row with tokens has a place"
    assert b is not None, "a row is given room before it is written"
    for sources, targets in ((a.keys, b.keys), (a.values, b.values)):
        for from_RKLD, to_RKLD in zip(sources, targets, strict=True):
            to_RKLD[target.slot, :, :num_tokens].copy_(from_RKLD[source.slot, :, :num_tokens])


def token_bytes(layers: Sequence[LayerShape], dtype: torch.dtype) -> int:
    return sum(x.num_heads * (x.key_size + x.value_size) for x in layers) * dtype.itemsize
