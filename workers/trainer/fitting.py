"""A batch in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from workers.trainer.batches import Row

RowT = TypeVar("RowT", bound=Row)
MAX_TOKENS_AT_ONCE = 32_768
"""In one pass through the model, padding included: activations and logits grow with them. A batch
of more takes several passes, with the same result."""


def fitting(rows: Sequence[RowT], lengths: Sequence[int]) -> Iterator[Sequence[RowT]]:
    """The rows of a batch in parts that fit into memory at once, the order kept: a row alone, or
    several whose padded length is at most `MAX_TOKENS_AT_ONCE`."""
    start, width = 0, 0
    for number, row in enumerate(rows):
        wider = max(width, sum(lengths[index] for index in row))
        if number > start and wider * (number + 1 - start) > MAX_TOKENS_AT_ONCE:
            yield rows[start:number]
            start, wider = number, sum(lengths[index] for index in row)
        width = wider
    yield rows[start:]
