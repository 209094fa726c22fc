"""Which slab has a row's keys and values, within a budget of bytes for all slabs.

There are a few lengths. A row that outgrows its slab moves to one of the next length, alone, unless
all rows of the slab do. A row that leaves makes a gap, which the next to come fills. Rows of one
length are brought together where the copying pays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

import torch

from workers.engine.hf.memory import is_out_of_memory
from workers.engine.hf.slabs import MIN_LENGTH, LayerShape, Row, Slab, token_bytes

T = TypeVar("T")

MAX_WASTE = 2
"""The slabs take at most this many times what their rows hold."""
CALL_TOKENS = 2048
"""Attention over one more group of rows costs about as much as reading this many tokens."""
_SHORT_LENGTH = 256
"""Up to this, each length is twice the one before."""
_COPY_COST = 3
"""Times what reading it costs."""


class SlotCache:
    """Rows that run share slabs; rows that are set apart have one each."""

    def __init__(
        self,
        layers: Sequence[LayerShape],
        *,
        dtype: torch.dtype,
        device: torch.device,
        budget_bytes: int,
        max_length: int,
    ) -> None:
        self._layers = layers
        self._dtype = dtype
        self._device = device
        self._max_length = max_length
        self._shared: list[Slab] = []
        self._apart: dict[Row, Slab] = {}
        self._credit: dict[int, int] = {}
        """By length: what bringing its rows together would have spared since they lie apart."""
        self.token_bytes = token_bytes(layers, dtype)
        self.budget_tokens = budget_bytes // self.token_bytes
        self.num_tokens = 0
        """What all slabs have room for."""

    @property
    def usage(self) -> float:
        """The share of the budget that running rows take."""
        return self._num_used / self.budget_tokens

    @property
    def num_held(self) -> int:
        """Tokens of all rows, each counted as at least `MIN_LENGTH`."""
        return sum(row.num_held for row in (*self.running, *self._apart))

    @property
    def running(self) -> list[Row]:
        """In the order in which they lie."""
        return [row for slab in self._shared for row in slab.rows]

    def has_room(self, num_tokens: int) -> bool:
        """For one more row, were all free slots and all rows set apart given up."""
        return self._num_used + self._slab_length(num_tokens) <= self.budget_tokens

    def reserve(self, wanted: Iterable[tuple[Row, int]]) -> bool:
        """Gives each row a place of at least so many tokens; what it holds stays. False if the
        budget does not allow it: some rows may have their places all the same."""
        by_length: defaultdict[int, list[Row]] = defaultdict(list)
        for row, num_tokens in wanted:
            if row.length < num_tokens:
                by_length[self._slab_length(num_tokens)].append(row)
        return all(self._place(rows, length) for length, rows in by_length.items())

    def release(self, row: Row) -> None:
        """Its place is free."""
        slab = self._apart.pop(row, row.slab)
        if slab is not None:
            slab.clear(row.slot)
            row.slab = None
            if not slab.slots:
                self._free(slab)

    def set_apart(self, row: Row) -> bool:
        """Gives a row that no longer runs a slab of its own. False if there is no room for it: then
        it stays where it is."""
        slab = row.slab
        assert slab is not None, "the row has run"
        if slab.num_slots > 1 or slab.length > self._slab_length(row.num_computed):
            length = min(_round_up(row.num_computed), self._max_length)
            slab = _if_there_is_memory(lambda: self._new_slab(1, length))
            if slab is None:
                return False
            self._move(row, slab)
        else:
            self._shared.remove(slab)
        self._apart[row] = slab
        row.num_coming = 0
        return True

    def tidy(self) -> None:
        """Once a step: brings rows of one length together where that pays, and gives memory back
        where much is free."""
        self._gather_all()
        if any(slab.num_free for slab in self._shared):
            allowed = MAX_WASTE * self.num_held
            while self.num_tokens > allowed and self._shrink_one():
                pass

    @property
    def _num_used(self) -> int:
        return sum(slab.num_rows * slab.length for slab in self._shared)

    # --- places -----------------------------------------------------------------------------------

    def _slab_length(self, num_tokens: int) -> int:
        """64, 128, 256, 384, 512, 768, ...: short rows move seldom, long ones waste little."""
        power = max(MIN_LENGTH, 1 << (num_tokens - 1).bit_length())
        between = power * 3 // 4
        is_long = between > _SHORT_LENGTH
        return min(between if is_long and num_tokens <= between else power, self._max_length)

    def _place(self, rows: list[Row], length: int) -> bool:
        free = [slab for slab in self._shared if slab.length == length and slab.num_free]
        if sum(slab.num_free for slab in free) < len(rows):
            for slab in dict.fromkeys(row.slab for row in rows if row.slab is not None):
                moving = [row for row in rows if row.slab is slab]
                if len(moving) == slab.num_rows:
                    if not self._resize(slab, len(moving), length):
                        return False
                    rows = [row for row in rows if row.slab is not slab]
        for slab in free:
            while slab.num_free and rows:
                self._move(rows.pop(0), slab)
        if rows:
            new = self._new_slab(len(rows), length)
            if new is None:
                return False
            self._shared.append(new)
            for row in rows:
                self._move(row, new)
        return True

    def _move(self, row: Row, slab: Slab) -> None:
        old = row.slab
        slab.take(row)
        if old is not None and not old.slots:
            self._free(old)

    def _new_slab(self, num_slots: int, length: int) -> Slab | None:
        if not self._make_room(num_slots * length):
            return None
        slab = Slab(self._layers, num_slots, length, self._dtype, self._device)
        self.num_tokens += slab.num_tokens
        return slab

    def _resize(self, slab: Slab, num_slots: int, length: int) -> bool:
        if not self._make_room(num_slots * length - slab.num_tokens):
            return False
        before = slab.num_tokens
        try:
            slab.resize(num_slots, length)
        finally:
            self.num_tokens += slab.num_tokens - before
        return True

    def _try_resize(self, slab: Slab, num_slots: int) -> bool:
        resize = partial(self._resize, slab, num_slots, slab.length)
        return bool(_if_there_is_memory(resize))

    def _free(self, slab: Slab) -> None:
        if slab in self._shared:
            self._shared.remove(slab)
        self.num_tokens -= slab.num_tokens

    def _make_room(self, num_tokens: int) -> bool:
        """Free slots count for nothing where the budget is short."""
        while self.num_tokens + num_tokens > self.budget_tokens:
            if not self._shrink_one():
                return False
        return True

    # --- tidying ----------------------------------------------------------------------------------

    def _shrink_one(self) -> bool:
        """Takes the free slots from the slab that has most of them; False if there are none."""
        slab = max(self._shared, key=lambda x: x.num_free * x.length, default=None)
        if slab is None or not slab.num_free:
            return False
        return self._try_resize(slab, slab.num_rows)

    def _gather_all(self) -> None:
        """Rows of one length are brought together once the calls that it would have spared have
        cost as much as the copying does: so no more than twice the least is ever paid."""
        by_length: defaultdict[int, list[Slab]] = defaultdict(list)
        for slab in self._shared:
            by_length[slab.length].append(slab)
        before, self._credit = self._credit, {}
        for length, slabs in by_length.items():
            num_spared = sum(slab.num_runs for slab in slabs) - 1
            if num_spared:
                credit = before.get(length, 0) + num_spared * CALL_TOKENS
                if not self._gather(slabs, credit):
                    self._credit[length] = credit

    def _gather(self, slabs: list[Slab], credit: int) -> bool:
        """Brings all rows to the slab that has most. False if that costs too much as yet."""
        target = max(slabs, key=lambda slab: slab.num_rows)
        num_rows = sum(slab.num_rows for slab in slabs)
        moving = [row for slab in slabs if slab is not target for row in slab.rows]
        more = num_rows - target.num_slots
        staying = target.rows if more > 0 else [x for x in target.rows if x.slot >= num_rows]
        if credit < _COPY_COST * sum(row.num_computed for row in (*moving, *staying)):
            return False
        if more > 0:
            if self.num_tokens + more * target.length > self.budget_tokens:
                return False
            if not self._try_resize(target, num_rows):
                return False
        for row in moving:
            self._move(row, target)
        target.close_gaps()
        return True


def _if_there_is_memory(do: Callable[[], T]) -> T | None:
    """For what need not be done: None if there is none."""
    try:
        return do()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _round_up(length: int) -> int:
    return -(-length // MIN_LENGTH) * MIN_LENGTH
