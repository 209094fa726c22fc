"""Several data sets as one: after each other, or in turn, as LLaMA-Factory's `mix_strategy` says.

As Hugging Face's `interleave_datasets` has it: in turn, or each time one drawn by its probability.
`interleave_under` ends with the first data set that is used up, and `interleave_over` begins such a
one again until the last is used up. The draws are Python's, so they are others for the same seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, cycle, islice
from typing import Generic, TypeVar

T = TypeVar("T")
Reader = Callable[[], Iterable[T]]
"""Reads a data set from its start."""


class MixStrategy(StrEnum):
    CONCAT = "concat"
    INTERLEAVE_UNDER = "interleave_under"
    INTERLEAVE_OVER = "interleave_over"


@dataclass(frozen=True, slots=True)
class Mixing:
    strategy: MixStrategy = MixStrategy.CONCAT
    probabilities: Sequence[float] | None = None
    """One of each data set. None: in turn."""
    seed: int = 42

    def problem(self, num_data_sets: int) -> str | None:
        """Why it cannot be of so many."""
        if self.probabilities is None:
            return None
        if self.strategy is MixStrategy.CONCAT:
            return "interleave_probs is for mix_strategy interleave_under or interleave_over"
        if len(self.probabilities) != num_data_sets:
            return f"interleave_probs must have {num_data_sets} values, one of each data set"
        if any(not 0 < each <= 1 for each in self.probabilities):
            return "interleave_probs must be more than 0, and at most 1"
        return None


def mix(readers: Sequence[Reader[T]], mixing: Mixing) -> Iterator[T]:
    """Empty data sets are left out."""
    if mixing.strategy is MixStrategy.CONCAT:
        return chain.from_iterable(read() for read in readers)
    opened = [(index, _Source(read)) for index, read in enumerate(readers)]
    full = [(index, source) for index, source in opened if not source.is_used_up]
    if not full:
        return iter(())
    sources = [source for _, source in full]
    if mixing.probabilities is None:
        return _in_turn(sources, mixing.strategy)
    weights = [mixing.probabilities[index] for index, _ in full]
    return _drawn(sources, weights, mixing)


class _Source(Generic[T]):
    """Rows of a data set, again and again."""

    def __init__(self, read: Reader[T]) -> None:
        self._read = read
        self.is_used_up = False
        """Each of its rows was given at least once."""
        self._begin()

    def take(self) -> T:
        row = self._next[0]
        self._look_ahead()
        if not self._next:
            self._begin()
        return row

    def _begin(self) -> None:
        self._rows = iter(self._read())
        self._look_ahead()

    def _look_ahead(self) -> None:
        """`_next` has the next row, or none."""
        self._next = list(islice(self._rows, 1))
        if not self._next:
            self.is_used_up = True


def _is_over(sources: Iterable[_Source[T]], strategy: MixStrategy) -> bool:
    used_up = (source.is_used_up for source in sources)
    return any(used_up) if strategy is MixStrategy.INTERLEAVE_UNDER else all(used_up)


def _in_turn(sources: Sequence[_Source[T]], strategy: MixStrategy) -> Iterator[T]:
    """Whole rounds."""
    for place, source in cycle(enumerate(sources)):
        if place == 0 and _is_over(sources, strategy):
            return
        yield source.take()


def _drawn(sources: Sequence[_Source[T]], weights: Sequence[float], mixing: Mixing) -> Iterator[T]:
    draw = random.Random(mixing.seed)
    while not _is_over(sources, mixing.strategy):
        (source,) = draw.choices(sources, weights)
        yield source.take()
