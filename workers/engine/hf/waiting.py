"""Sequences that wait to be admitted: the spare ones apart from the others, and behind them."""

from __future__ import annotations

from collections import deque

from workers.engine.hf.sequence import Sequence


class Waiting:
    """Each queue is in order of arrival."""

    def __init__(self) -> None:
        self.ordinary: deque[Sequence] = deque()
        self.spare: deque[Sequence] = deque()

    def __len__(self) -> int:
        return len(self.ordinary) + len(self.spare)

    def add(self, sequence: Sequence) -> None:
        self._queue_of(sequence).append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Before all that wait: it was admitted once."""
        self._queue_of(sequence).appendleft(sequence)

    def remove(self, sequence: Sequence) -> bool:
        """False if it does not wait."""
        queue = self._queue_of(sequence)
        if sequence not in queue:
            return False
        queue.remove(sequence)
        return True

    def _queue_of(self, sequence: Sequence) -> deque[Sequence]:
        return self.spare if sequence.work.is_spare else self.ordinary


def youngest_spare(sequences: list[Sequence]) -> Sequence | None:
    """Who gives its place up first to somebody who is not spare."""
    spare = [sequence for sequence in sequences if sequence.work.is_spare]
    return max(spare, key=lambda sequence: sequence.arrival, default=None)
