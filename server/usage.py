"""Counts tokens by key, model and minute and reports them to the store, at most a second late.

What the store does not take is kept and written later, in the minutes it belongs to. Only so much
of it is kept, and what is dropped is counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

from server.auth import Principal
from server.store.records import Usage

logger = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 0.5
MAX_FLUSH_INTERVAL_S = 10.0
"""While the store takes nothing."""
MAX_KEPT = 10_000
"""Minutes of a key and model; some megabytes."""
_MAX_WRITTEN_AT_ONCE = 500
_MINUTE_S = 60


def minute_of(at: float) -> int:
    """The Unix time at which the minute began."""
    return int(at) // _MINUTE_S * _MINUTE_S


class Ledger(Protocol):
    async def add(self, entries: Sequence[Usage]) -> None: ...


@dataclass(slots=True)
class Tally:
    """What a request has cost so far."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    audio_tokens: int = 0
    """Of the prompt's."""
    completion_tokens: int = 0
    reasoning_tokens: int = 0


class _Place(NamedTuple):
    project_id: str
    key_id: str
    model: str
    minute: int


@dataclass(slots=True)
class _Total:
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    embedding_requests: int = 0
    embedding_tokens: int = 0
    batch_requests: int = 0
    batch_tokens: int = 0

    def add(self, other: _Total) -> None:
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.cached_tokens += other.cached_tokens
        self.embedding_requests += other.embedding_requests
        self.embedding_tokens += other.embedding_tokens
        self.batch_requests += other.batch_requests
        self.batch_tokens += other.batch_tokens


class Accountant:
    """Collects in memory; `close` writes what is left."""

    def __init__(self, ledger: Ledger, max_kept: int = MAX_KEPT) -> None:
        self._ledger = ledger
        self._max_kept = max_kept
        self._totals: dict[_Place, _Total] = {}
        self._being_written: dict[_Place, _Total] = {}
        self.served = {"prompt": 0, "cached": 0, "completion": 0}
        """Tokens since the start, by kind."""
        self.dropped: Counter[str] = Counter(requests=0, tokens=0)
        """What will never be in the store."""
        self._is_failing = False
        self._flusher: asyncio.Task[None] | None = None

    @property
    def num_unwritten(self) -> int:
        """Requests that the store has not taken yet."""
        kept = [*self._totals.values(), *self._being_written.values()]
        return sum(total.requests for total in kept)

    def record(
        self,
        principal: Principal,
        model: str,
        tally: Tally,
        *,
        is_pooled: bool = False,
        is_spare: bool = False,
    ) -> None:
        """`is_pooled`: an embedding or a score; `is_spare`: a line of a batch."""
        place = _Place(principal.project.id, principal.key_id, model, minute_of(time.time()))
        total = _Total(1, tally.prompt_tokens, tally.completion_tokens, tally.cached_tokens)
        if is_pooled:
            total.embedding_requests, total.embedding_tokens = 1, tally.prompt_tokens
        if is_spare:
            total.batch_requests = 1
            total.batch_tokens = tally.prompt_tokens + tally.completion_tokens
        self._keep(place, total)
        self.served["prompt"] += tally.prompt_tokens
        self.served["cached"] += tally.cached_tokens
        self.served["completion"] += tally.completion_tokens
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush_later())

    async def close(self) -> None:
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.gather(self._flusher, return_exceptions=True)
        await self._flush()

    def _keep(self, place: _Place, amount: _Total) -> None:
        total = self._totals.get(place)
        if total is not None:
            total.add(amount)
        elif len(self._totals) < self._max_kept:
            self._totals[place] = amount
        else:
            self.dropped["requests"] += amount.requests
            self.dropped["tokens"] += amount.prompt_tokens + amount.completion_tokens

    async def _flush_later(self) -> None:
        interval_s = FLUSH_INTERVAL_S
        while self._totals:
            await asyncio.sleep(interval_s)
            await asyncio.shield(self._flush())
            longer_s = min(2 * interval_s, MAX_FLUSH_INTERVAL_S)
            interval_s = longer_s if self._is_failing else FLUSH_INTERVAL_S
        self._flusher = None

    async def _flush(self) -> None:
        while self._totals and await self._write_some():
            pass

    async def _write_some(self) -> bool:
        """False if the store does not take it; it is kept for the next time."""
        taken = dict(islice(self._totals.items(), _MAX_WRITTEN_AT_ONCE))
        self._being_written = taken
        for place in taken:
            del self._totals[place]
        try:
            await self._ledger.add([_entry(place, total) for place, total in taken.items()])
        except Exception as error:
            self._being_written = {}
            for place, total in taken.items():
                self._keep(place, total)
            if not self._is_failing:
                logger.error("usage cannot be written and is kept", extra={"reason": str(error)})
            self._is_failing = True
            return False
        self._being_written = {}
        if self._is_failing:
            logger.info("usage is written again")
        self._is_failing = False
        return True


def _entry(place: _Place, total: _Total) -> Usage:
    return Usage(
        *place,
        requests=total.requests,
        prompt_tokens=total.prompt_tokens,
        completion_tokens=total.completion_tokens,
        cached_tokens=total.cached_tokens,
        embedding_requests=total.embedding_requests,
        embedding_tokens=total.embedding_tokens,
        batch_requests=total.batch_requests,
        batch_tokens=total.batch_tokens,
    )
