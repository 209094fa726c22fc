"""Counts tokens by key and model and reports them to the store, at most a second late."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from server.auth import Principal
from server.store.records import Usage

logger = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 0.5


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


@dataclass(slots=True)
class _Total:
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Accountant:
    """Collects in memory; `close` writes what is left."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._totals: dict[tuple[str, str, str], _Total] = {}
        self.served = {"prompt": 0, "cached": 0, "completion": 0}
        """Tokens since the start, by kind."""
        self._flusher: asyncio.Task[None] | None = None

    def record(self, principal: Principal, model: str, tally: Tally) -> None:
        place = (principal.project.id, principal.key_id, model)
        total = self._totals.setdefault(place, _Total())
        total.requests += 1
        total.prompt_tokens += tally.prompt_tokens
        total.completion_tokens += tally.completion_tokens
        total.cached_tokens += tally.cached_tokens
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

    async def _flush_later(self) -> None:
        while self._totals:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            await asyncio.shield(self._flush())
        self._flusher = None

    async def _flush(self) -> None:
        """What the store does not take is kept for the next time."""
        totals, self._totals = self._totals, {}
        if not totals:
            return
        entries = [
            Usage(
                project_id=project_id,
                key_id=key_id,
                model=model,
                requests=total.requests,
                prompt_tokens=total.prompt_tokens,
                completion_tokens=total.completion_tokens,
                cached_tokens=total.cached_tokens,
            )
            for (project_id, key_id, model), total in totals.items()
        ]
        try:
            await self._ledger.add(entries)
        except Exception:
            logger.exception("usage could not be written and is kept")
            for place, total in totals.items():
                self._merge(place, total)

    def _merge(self, place: tuple[str, str, str], kept: _Total) -> None:
        total = self._totals.setdefault(place, _Total())
        total.requests += kept.requests
        total.prompt_tokens += kept.prompt_tokens
        total.completion_tokens += kept.completion_tokens
        total.cached_tokens += kept.cached_tokens
