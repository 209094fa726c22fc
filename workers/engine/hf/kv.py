"""Keys and values of all rows: per layer one tensor [rows, heads, length, head size].

Rows in use are kept dense from 0, so that attention over decoding rows reads a view. The tensors
grow with the number of rows and the longest row, within a budget of bytes.

Shape letters: R rows, K key/value heads, L length in tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_LENGTH_STEP = 64


@dataclass(frozen=True, slots=True)
class LayerShape:
    num_heads: int
    key_size: int
    value_size: int


class SlotCache:
    def __init__(
        self,
        layers: Sequence[LayerShape],
        *,
        dtype: torch.dtype,
        device: torch.device,
        budget_bytes: int,
        max_rows: int,
        max_length: int,
    ) -> None:
        self._layers = layers
        self._dtype = dtype
        self._device = device
        self._budget_bytes = budget_bytes
        self._max_rows = max_rows
        self._max_length = max_length
        self.rows = 0
        self.length = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.token_bytes = token_bytes(layers, dtype)
        self._allocate(1, min(_LENGTH_STEP, max_length))

    @property
    def usage(self) -> float:
        return self.rows * self.length * self.token_bytes / self._budget_bytes

    def reserve(self, rows: int, length: int) -> bool:
        """Makes room for `rows` rows of `length` tokens; what is in them stays. False if the
        budget does not allow it; rows behind `rows` may be lost either way of True."""
        if rows <= self.rows and length <= self.length:
            return True
        wide = min(max(self.rows, 1 << (rows - 1).bit_length()), self._max_rows)
        wide = max(wide, rows)
        long = self.length
        if length > long:
            long = min(max(_round_up(length), 2 * long), self._max_length)
        for new_rows, new_length in (
            (wide, long),
            (rows, long),
            (rows, min(_round_up(length), self._max_length)),
        ):
            if new_rows * new_length * self.token_bytes <= self._budget_bytes:
                self._resize(new_rows, new_length)
                return True
        return False

    def copy(self, source: int, target: int, length: int) -> None:
        """Row `target` begins with the first `length` tokens of row `source`."""
        if source == target or length == 0:
            return
        for tensors in (self.keys, self.values):
            for t_RKLD in tensors:
                t_RKLD[target, :, :length].copy_(t_RKLD[source, :, :length])

    def swap(self, a: int, b: int, length_a: int, length_b: int) -> None:
        if a == b:
            return
        for tensors in (self.keys, self.values):
            for t_RKLD in tensors:
                saved = t_RKLD[a, :, :length_a].clone()
                t_RKLD[a, :, :length_b].copy_(t_RKLD[b, :, :length_b])
                t_RKLD[b, :, :length_a].copy_(saved)

    def _resize(self, rows: int, length: int) -> None:
        """Out of memory half-way, some layers have the old size and some the new: what both have
        is then the capacity, and nothing in it is lost."""
        try:
            self._allocate(rows, length)
        except (MemoryError, RuntimeError):
            self.rows, self.length = min(rows, self.rows), min(length, self.length)
            raise

    def _allocate(self, rows: int, length: int) -> None:
        """One layer at a time, so that little more than one layer is held twice. Zeroed: what
        attention masks out must still be finite."""
        for index, layer in enumerate(self._layers):
            for tensors, size in ((self.keys, layer.key_size), (self.values, layer.value_size)):
                new = torch.zeros(
                    (rows, layer.num_heads, length, size), dtype=self._dtype, device=self._device
                )
                if index < len(tensors):
                    old = tensors[index]
                    kept_rows, kept = min(rows, old.shape[0]), min(length, old.shape[2])
                    new[:kept_rows, :, :kept].copy_(old[:kept_rows, :, :kept])
                    tensors[index] = new
                else:
                    tensors.append(new)
        self.rows, self.length = rows, length


def token_bytes(layers: Sequence[LayerShape], dtype: torch.dtype) -> int:
    return sum(x.num_heads * (x.key_size + x.value_size) for x in layers) * dtype.itemsize


def _round_up(length: int) -> int:
    return -(-length // _LENGTH_STEP) * _LENGTH_STEP
