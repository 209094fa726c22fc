"""The events of one background response, kept for those that follow or replay it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from itertools import islice

from server.errors import InvalidRequest

MAX_LOG_BYTES = 4 * 1024 * 1024
"""Of one response's events; the oldest are dropped."""
_MAX_ENDED_BYTES = 64 * 1024 * 1024
"""Of responses that have ended; those that ended first are dropped."""


class EventLog:
    def __init__(self) -> None:
        self._events: deque[bytes] = deque()
        self._first = 0
        """The number of the oldest that is there."""
        self._changed = asyncio.Event()
        self.num_bytes = 0
        self.has_ended = False

    def append(self, event: bytes) -> None:
        self._events.append(event)
        self.num_bytes += len(event)
        while self.num_bytes > MAX_LOG_BYTES and len(self._events) > 1:
            self.num_bytes -= len(self._events.popleft())
            self._first += 1
        self._tell()

    def end(self) -> None:
        """Nothing is appended any more."""
        self.has_ended = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def check(self, number: int) -> None:
        """Raises InvalidRequest if the event with this number is not there any more."""
        if number < self._first:
            raise events_gone()

    async def follow(self, number: int) -> AsyncGenerator[tuple[bytes, bool]]:
        """The events from this number on, and whether they are the last. What is dropped before it
        is taken ends it."""
        while number >= self._first:
            changed, has_ended = self._changed, self.has_ended
            data = b"".join(islice(self._events, number - self._first, None))
            number = max(number, self._first + len(self._events))
            yield data, has_ended
            if has_ended:
                return
            await changed.wait()


class EventLogs:
    """The logs of this gateway's responses, by id."""

    def __init__(self) -> None:
        self._running: dict[str, EventLog] = {}
        self._ended: OrderedDict[str, EventLog] = OrderedDict()
        self._ended_bytes = 0

    def open(self, response_id: str) -> EventLog:
        log = self._running[response_id] = EventLog()
        return log

    def find(self, response_id: str) -> EventLog | None:
        return self._running.get(response_id) or self._ended.get(response_id)

    def end(self, response_id: str) -> None:
        log = self._running.pop(response_id)
        log.end()
        self._ended[response_id] = log
        self._ended_bytes += log.num_bytes
        while self._ended_bytes > _MAX_ENDED_BYTES:
            _, dropped = self._ended.popitem(last=False)
            self._ended_bytes -= dropped.num_bytes


def events_gone() -> InvalidRequest:
    return InvalidRequest(
        "The events of this response are not held by this gateway, or not any more. Please "
        "retrieve the response without 'stream'.",
        param="stream",
        code="events_not_available",
    )
