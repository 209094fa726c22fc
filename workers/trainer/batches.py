"""Which examples make up which step, and their tensors.

A row of a batch is one example, or several packed behind each other. Batches are the same for
the same seed, epoch and lengths, so a run that resumes needs only its step number.

Rows are padded on the right and no attention mask is passed: causal attention keeps padding from
what stands before it. Packed rows carry `position_ids` that restart at each example, from which
transformers builds a mask that keeps examples apart; any mask of ours would switch that off
(`transformers.masking_utils.find_packed_sequence_indices`). Models that have no such mask are found
by `workers.trainer.packing` before anything is packed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from workers.trainer.dataset import IGNORED, Sequence32

_GROUPED_BATCHES = 50
"""Rows are sorted by length within so many batches at a time, as transformers does."""
_LENGTH_JITTER = 0.1
"""Share by which lengths vary for sorting, so that epochs differ in their batches."""

Row = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    input_ids: torch.Tensor
    """[rows, columns]"""
    targets: torch.Tensor
    """[rows, scored columns]: the next token, or IGNORED."""
    scored_columns: torch.Tensor
    """Columns in which any row has a target: the only ones whose logits are computed."""
    position_ids: torch.Tensor | None
    weight: int
    """What the sum of the losses is divided by: the number of targets, unless the stage counts
    something else."""
    num_tokens: int
    """Tokens of examples, padding apart."""
    values: torch.Tensor | None = None
    """[examples, ...] what the stage keeps beside the sequences."""
    lengths: tuple[int, ...] | None = None
    """Of the sequences of a flat batch (`workers.trainer.flat`)."""
    beside: Batch | None = None
    """What the stage measures on other sequences, without a gradient."""


class BatchPlan:
    """Batches of each epoch over `rows`."""

    def __init__(
        self,
        rows: Sequence[Row],
        lengths: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        group_by_length: bool,
    ) -> None:
        self._rows = rows
        self._lengths = [sum(lengths[index] for index in row) for row in rows]
        self._batch_size = batch_size
        self._seed = seed
        self._group_by_length = group_by_length

    @property
    def num_batches(self) -> int:
        return math.ceil(len(self._rows) / self._batch_size)

    def epoch(self, number: int) -> list[list[Row]]:
        rng = random.Random(f"{self._seed}/{number}")
        order = list(range(len(self._rows)))
        rng.shuffle(order)
        if not self._group_by_length:
            return [[self._rows[i] for i in chunk] for chunk in _chunks(order, self._batch_size)]
        batches: list[list[int]] = []
        for group in _chunks(order, self._batch_size * _GROUPED_BATCHES):
            low, high = 1 - _LENGTH_JITTER, 1 + _LENGTH_JITTER
            by_length = {i: self._lengths[i] * rng.uniform(low, high) for i in group}
            batches += _chunks(sorted(group, key=by_length.__getitem__), self._batch_size)
        rng.shuffle(batches)
        return [[self._rows[i] for i in batch] for batch in batches]


def single_rows(num_examples: int) -> list[Row]:
    return [(index,) for index in range(num_examples)]


def pack_rows(lengths: Sequence[int], capacity: int) -> list[Row]:
    """Examples into rows of at most `capacity` tokens: best-fit decreasing.

    Open rows are kept by the space left in them, so that a fit is a walk over at most `capacity`
    spaces (Ding et al. 2024, "Fewer Truncations Improve Language Modeling", algorithm 1).
    """
    by_space: list[list[list[int]]] = [[] for _ in range(capacity + 1)]
    rows: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        for space in range(length, capacity):
            if by_space[space]:
                row = by_space[space].pop()
                break
        else:
            row, space = [], capacity
            rows.append(row)
        row.append(index)
        by_space[space - length].append(row)
    return [tuple(row) for row in rows]


def collate(lines: Sequence[Sequence[Sequence32]]) -> Batch:
    """A batch of a row for each line: one sequence, or several packed behind each other. Columns
    behind the last target are cut: nothing that is scored sees them."""
    packed = any(len(line) > 1 for line in lines)
    width = max(sum(len(tokens) for tokens, _ in line) for line in lines)
    ids = np.zeros((len(lines), width), dtype=np.int64)
    targets = np.full((len(lines), width), IGNORED, dtype=np.int64)
    positions = np.tile(np.arange(width, dtype=np.int64), (len(lines), 1)) if packed else None
    num_tokens = 0
    for at, line in enumerate(lines):
        start = 0
        for tokens, labels in line:
            end = start + len(tokens)
            ids[at, start:end] = tokens
            targets[at, start : end - 1] = labels[1:]
            if positions is not None:
                positions[at, start:end] = np.arange(len(tokens))
            start = end
        if positions is not None:
            positions[at, start:] = np.arange(width - start)
        num_tokens += start
    scored = np.flatnonzero((targets != IGNORED).any(axis=0))
    columns = int(scored[-1]) + 1
    kept = torch.from_numpy(targets[:, scored])
    return Batch(
        input_ids=torch.from_numpy(ids[:, :columns]),
        targets=kept,
        scored_columns=torch.from_numpy(scored),
        position_ids=None if positions is None else torch.from_numpy(positions[:, :columns]),
        weight=int((kept != IGNORED).sum()),
        num_tokens=num_tokens,
    )


def _chunks(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
