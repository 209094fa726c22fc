"""Answers of the store that are remembered for a moment, asked for once however many wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")

MAX_REMEMBERED = 10_000


class Remembered(Generic[KeyT, ValueT]):
    """`look_up` gives None for what there is not; that is never remembered."""

    def __init__(self, look_up: Callable[[KeyT], Awaitable[ValueT | None]], ttl_s: float) -> None:
        self._look_up = look_up
        self._ttl_s = ttl_s
        self._known: dict[KeyT, tuple[float, ValueT]] = {}
        self._asking: dict[KeyT, asyncio.Task[ValueT | None]] = {}

    async def get(self, key: KeyT) -> ValueT | None:
        known = self._known.get(key)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(key))
        return await asyncio.shield(asking)

    def forget(self, key: KeyT) -> None:
        self._known.pop(key, None)
        self._asking.pop(key, None)

    def forget_value(self, is_gone: Callable[[ValueT], bool]) -> None:
        """Whatever is asked for just now is not remembered either."""
        gone = [key for key, (_, value) in self._known.items() if is_gone(value)]
        for key in gone:
            del self._known[key]
        self._asking.clear()

    def forget_all(self) -> None:
        self._known.clear()
        self._asking.clear()

    async def _ask(self, key: KeyT) -> ValueT | None:
        try:
            value = await self._look_up(key)
        finally:
            current = self._asking.get(key) is asyncio.current_task()
            if current:
                del self._asking[key]
        if value is None:
            self._known.pop(key, None)
        elif current:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[key] = (time.monotonic() + self._ttl_s, value)
        return value
