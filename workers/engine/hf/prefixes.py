"""Which rows hold what, and how much of a prompt some row has computed already.

Rows 0 to `len(active)` - 1 hold running sequences; behind them lie rows of finished ones, kept for
prompts that begin alike until their place is needed. What was computed with one adapter is of no
use to another.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

from workers.engine.hf.kv import SlotCache
from workers.engine.hf.sequence import Sequence

MIN_SHARED_TOKENS = 16
"""Sharing less than this is not worth the copy."""


@dataclass(slots=True)
class _Kept:
    """A finished sequence's row: keys and values of all its tokens are computed. `keys` are those
    of `Sequence.keys`."""

    keys: array[int]
    adapter_uid: int
    last_used: int


@dataclass(frozen=True, slots=True)
class Shared:
    """`row` has the first `length` tokens computed; `coming` counts those it will have once its
    own prompt is done."""

    row: int
    length: int
    coming: int


class Rows:
    def __init__(self, cache: SlotCache, max_kept: int) -> None:
        self._cache = cache
        self._max_kept = max_kept
        self._clock = 0
        self.active: list[Sequence] = []
        self._kept: dict[int, _Kept] = {}

    @property
    def num_kept(self) -> int:
        return len(self._kept)

    def find_shared(self, sequence: Sequence) -> Shared | None:
        """The row that spares most; the last prompt token is always computed, for its logits."""
        limit = len(sequence.tokens) - 1
        best: Shared | None = None
        for row, other in enumerate(self.active):
            if other.adapter_uid == sequence.adapter_uid:
                coming = _common(sequence.keys, other.keys, limit)
                best = _better(best, Shared(row, min(coming, other.num_computed), coming))
        for row, kept in self._kept.items():
            if kept.adapter_uid == sequence.adapter_uid:
                length = _common(sequence.keys, kept.keys, limit)
                best = _better(best, Shared(row, length, length))
        return best if best is not None and best.coming >= MIN_SHARED_TOKENS else None

    def add(self, sequence: Sequence, shared: Shared | None) -> None:
        """Gives the sequence the next row, with what it shares. The cache has room for it."""
        row = len(self.active)
        occupant = self._kept.pop(row, None)
        if occupant is not None and (shared is None or shared.row != row):
            self._rehouse(row, occupant)
        if shared is not None and shared.length:
            self._cache.copy(shared.row, row, shared.length)
            sequence.num_computed = shared.length
            if sequence.num_output == 0:
                sequence.num_cached = shared.length
            if shared.row in self._kept:
                self._clock += 1
                self._kept[shared.row].last_used = self._clock
        self.active.append(sequence)

    def remove(self, sequence: Sequence, *, keep: bool) -> None:
        """Its row goes to the last active one, so that rows stay dense."""
        row, last = self.active.index(sequence), len(self.active) - 1
        mover = self.active[last]
        length = sequence.num_computed
        keep = keep and self._max_kept > 0 and length >= MIN_SHARED_TOKENS
        if keep:
            self._cache.swap(row, last, length, mover.num_computed)
            self._clock += 1
            keys = sequence.keys[:length]
            self._kept[last] = _Kept(keys, sequence.adapter_uid, self._clock)
        else:
            self._cache.copy(last, row, mover.num_computed)
        self.active[row] = mover
        self.active.pop()
        while len(self._kept) > self._max_kept:
            self._drop_oldest()

    def forget_kept(self, adapter_uid: int | None = None) -> None:
        """All, or those of one adapter."""
        for row in [r for r, k in self._kept.items() if adapter_uid in (None, k.adapter_uid)]:
            del self._kept[row]

    def trim(self) -> None:
        """Forgets kept rows that the cache no longer has."""
        for row in [r for r, k in self._kept.items() if not self._holds(r, k)]:
            del self._kept[row]

    def _holds(self, row: int, kept: _Kept) -> bool:
        return row < self._cache.rows and len(kept.keys) <= self._cache.length

    def _rehouse(self, row: int, kept: _Kept) -> None:
        """Its row is about to be overwritten: it moves to a free one behind, or goes."""
        free = (r for r in range(row + 1, self._cache.rows) if r not in self._kept)
        target = next(free, None)
        if target is not None:
            self._cache.copy(row, target, len(kept.keys))
            self._kept[target] = kept

    def _drop_oldest(self) -> None:
        del self._kept[min(self._kept, key=lambda row: self._kept[row].last_used)]


def _common(a: array[int], b: array[int], limit: int) -> int:
    size = min(limit, len(b))
    if size <= 0 or a[0] != b[0]:
        return 0
    differ = np.frombuffer(a, np.int64, size) != np.frombuffer(b, np.int64, size)
    first = int(differ.argmax())
    return first if differ[first] else size


def _better(best: Shared | None, other: Shared) -> Shared:
    if best is None or (other.length, other.coming) > (best.length, best.coming):
        return other
    return best
