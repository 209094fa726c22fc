"""Running sequences' rows, and how much of a prompt some row has computed already.

Rows of finished sequences are kept for prompts that begin alike, until memory is wanted or there
are too many; the oldest goes first. A prompt that begins like a kept row has a copy of that
beginning in its own row, so a row's last use for others is when it was kept. What was computed in
one scope, or with one adapter, is of no use to another.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from workers.engine.hf.kv import SlotCache
from workers.engine.hf.sequence import Sequence
from workers.engine.hf.slabs import Row, copy_tokens

MIN_SHARED_TOKENS = 16
"""Sharing less than this is not worth the copy."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A finished sequence: keys and values of all its tokens are computed. `keys` are those of
    `Sequence.keys`."""

    row: Row
    keys: array[int]
    num_prompt: int
    prompt_logits_V: Tensor | None
    scope: tuple[str, int]


@dataclass(frozen=True, slots=True)
class Shared:
    """`row` has the first `length` tokens computed; `coming` counts those it will have once its
    own prompt is done."""

    row: Row
    length: int
    coming: int
    is_same: bool = False
    """The whole prompt is another's, which runs or has left its logits: both then go on from the
    same bytes."""
    logits_V: Tensor | None = None
    """Of the last prompt token, where that is so and they are there."""

    @property
    def is_ready(self) -> bool:
        """Waiting would not spare much more."""
        if self.is_same:
            return self.logits_V is not None
        return self.coming - self.length < MIN_SHARED_TOKENS


class Rows:
    shares_prompts = True

    def __init__(self, cache: SlotCache, max_kept: int) -> None:
        self._cache = cache
        self._max_kept = max_kept
        self._owners: dict[Row, Sequence] = {}
        self._kept: dict[Row, _Kept] = {}
        """Oldest first."""

    @property
    def num_kept(self) -> int:
        return len(self._kept)

    @property
    def num_active(self) -> int:
        return len(self._owners)

    @property
    def active(self) -> list[Sequence]:
        """In order of admission."""
        return list(self._owners.values())

    @property
    def in_order(self) -> list[Sequence]:
        """As their rows lie."""
        return [self._owners[row] for row in self._cache.running]

    def find_shared(self, sequence: Sequence) -> Shared | None:
        """The row that spares most."""
        best: Shared | None = None
        for other in (*self._owners.values(), *self._kept.values()):
            if other.scope == sequence.scope:
                best = _better(best, _shared(sequence, other))
        return best

    def has_room(self, num_tokens: int) -> bool:
        """Whether `reserve` will find room for one more row."""
        return self._cache.has_room(num_tokens)

    def reserve(self, wanted: Iterable[tuple[Row, int]]) -> bool:
        """Room for so many tokens of each row. Kept rows count for nothing against running ones."""
        wanted = list(wanted)
        while not self._cache.reserve(wanted):
            if not self._kept:
                return False
            self._drop_oldest()
        return True

    def add(self, sequence: Sequence, shared: Shared | None) -> None:
        """The sequence's row, with what it shares. It has been given room."""
        row = sequence.row
        row.num_coming = len(sequence.tokens)
        self._owners[row] = sequence
        if shared is None or not shared.length:
            return
        copy_tokens(shared.row, row, shared.length)
        row.num_computed = shared.length
        sequence.prompt_logits_V = shared.logits_V
        if sequence.num_output == 0:
            sequence.num_cached = shared.length
        kept = self._kept.get(shared.row)
        if kept is not None and shared.length == len(kept.keys):
            self._drop(shared.row)

    def remove(self, sequence: Sequence, *, keep: bool) -> None:
        row = sequence.row
        del self._owners[row]
        if not (keep and self._keep(sequence)):
            self._cache.release(row)

    def forget_kept(self, adapter_uid: int | None = None) -> None:
        """All, or those of one adapter."""
        for row, kept in list(self._kept.items()):
            if adapter_uid in (None, kept.scope[1]):
                self._drop(row)

    def tidy(self) -> None:
        self._cache.tidy()

    def _keep(self, sequence: Sequence) -> bool:
        """False if it is not worth it or there is no room."""
        row = sequence.row
        if not self._max_kept or row.num_computed < MIN_SHARED_TOKENS:
            return False
        while len(self._kept) >= self._max_kept:
            self._drop_oldest()
        while not self._cache.set_apart(row):
            if not self._kept:
                return False
            self._drop_oldest()
        keys = sequence.keys[: row.num_computed]
        logits_V = sequence.prompt_logits_V
        self._kept[row] = _Kept(row, keys, sequence.num_prompt, logits_V, sequence.scope)
        return True

    def _drop_oldest(self) -> None:
        self._drop(next(iter(self._kept)))

    def _drop(self, row: Row) -> None:
        del self._kept[row]
        self._cache.release(row)


def _shared(sequence: Sequence, other: Sequence | _Kept) -> Shared | None:
    """What `sequence` can have of the other's row. Of a prompt that is not the same as a whole, the
    last token is computed in any case, for its logits."""
    num_tokens, num_computed = len(sequence.tokens), other.row.num_computed
    common = _common(sequence.keys, other.keys, num_tokens)
    if min(common, num_tokens - 1) < MIN_SHARED_TOKENS:
        return None
    if common == num_tokens == other.num_prompt:
        logits_V = other.prompt_logits_V if num_computed >= num_tokens else None
        if logits_V is not None or isinstance(other, Sequence):
            length = num_tokens if logits_V is not None else min(num_tokens - 1, num_computed)
            return Shared(other.row, length, num_tokens, True, logits_V)
    coming = min(common, num_tokens - 1)
    return Shared(other.row, min(coming, num_computed), coming)


def _common(a: array[int], b: array[int], limit: int) -> int:
    size = min(limit, len(b))
    if size <= 0 or a[0] != b[0]:
        return 0
    differ = np.frombuffer(a, np.int64, size) != np.frombuffer(b, np.int64, size)
    first = int(differ.argmax())
    return first if differ[first] else size


def _better(best: Shared | None, other: Shared | None) -> Shared | None:
    if best is None or other is None:
        return best or other
    return other if (other.length, other.coming) > (best.length, best.coming) else best
