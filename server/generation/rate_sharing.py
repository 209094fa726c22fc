"""Tells the rate meter what all gateways on the database have served, twice a second while limits
are in use, from the usage that each of them writes down anyway."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from server.generation.rates import RateMeter
from server.store.usage import RecentUse

logger = logging.getLogger(__name__)

INTERVAL_S = 0.5


class RecentUsage(Protocol):
    async def recent(self) -> Sequence[RecentUse]: ...


class RateSharing:
    def __init__(self, meter: RateMeter, usage: RecentUsage) -> None:
        self._meter = meter
        self._usage = usage
        self._is_failing = False
        self._follower: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Learns what was served before this gateway was started."""
        await self._learn()
        self._follower = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            if self._meter.is_used:
                await self._learn()

    async def _learn(self) -> None:
        """Limits hold without the store; each gateway then counts for itself."""
        try:
            self._meter.learn(await self._usage.recent())
        except Exception as error:
            if not self._is_failing:
                logger.error("usage cannot be read", extra={"reason": str(error)})
            self._is_failing = True
            return
        self._is_failing = False
