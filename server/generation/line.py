"""A configured limit on how many requests a model has under way, and the line before it.

`max_concurrent` of a model entry counts the requests of one gateway, for the model and for all that
was fine-tuned from it. One more waits its turn; when `max_queued` wait already it is refused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from server.config import ModelEntry
from server.errors import Unavailable
from server.gate import Call, ClientGone

_RETRY_AFTER_S = 2.0


class Visit(Protocol):
    """A request, from its arrival to the end of its reply."""

    @property
    def call(self) -> Call: ...
    @property
    def over(self) -> bool: ...
    def when_over(self, callback: Callable[[], None]) -> None:
        """Calls it once; at once, if it is over already."""
        ...


class Line:
    """Served first come, first served. A spare visit takes a place that nobody else wants, and
    one that is not spare waits for none that a spare one has: the engine makes room for it."""

    def __init__(self, max_concurrent: int, max_queued: int) -> None:
        self._max_concurrent = max_concurrent
        self._max_queued = max_queued
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._waiting_spare: deque[asyncio.Future[None]] = deque()
        self.num_inside = 0
        self._num_spare = 0
        """Of those inside."""
        self.num_waited = 0
        self.num_refused = 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    async def enter(self, visit: Visit) -> None:
        """Inside until the visit is over. Raises Unavailable, and ClientGone if the caller hangs up
        while waiting."""
        if visit.over:
            raise ClientGone
        if visit.call.is_spare:
            await self._enter_spare(visit)
            return
        if self.num_inside - self._num_spare < self._max_concurrent:
            self.num_inside += 1
        else:
            await self._wait(visit)
        visit.when_over(self._leave)

    async def _enter_spare(self, visit: Visit) -> None:
        """However many wait: whoever runs batches has a limit of its own."""
        if self.num_inside < self._max_concurrent:
            self.num_inside += 1
            self._num_spare += 1
        else:
            turn = asyncio.get_running_loop().create_future()
            self._waiting_spare.append(turn)
            visit.when_over(partial(self._give_up, self._waiting_spare, turn))
            await turn
        visit.when_over(self._leave_spare)

    async def _wait(self, visit: Visit) -> None:
        if len(self._waiting) >= self._max_queued:
            self.num_refused += 1
            message = "Too many requests are waiting for this model. Please retry later."
            raise Unavailable(message, retry_after_s=_RETRY_AFTER_S)
        self.num_waited += 1
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        visit.when_over(partial(self._give_up, self._waiting, turn))
        await turn

    def _leave(self) -> None:
        """The place goes to the first in line, who is inside from this instant."""
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self.num_inside -= 1
            self._let_spare_in()

    def _leave_spare(self) -> None:
        self.num_inside -= 1
        self._num_spare -= 1
        self._let_spare_in()

    def _let_spare_in(self) -> None:
        if self._waiting_spare and self.num_inside < self._max_concurrent:
            self.num_inside += 1
            self._num_spare += 1
            self._waiting_spare.popleft().set_result(None)

    def _give_up(self, waiting: deque[asyncio.Future[None]], turn: asyncio.Future[None]) -> None:
        """Of one whose turn has come, the visit itself ends."""
        if not turn.done():
            waiting.remove(turn)
            turn.set_exception(ClientGone())


def open_lines(entries: Iterable[ModelEntry]) -> dict[str, Line]:
    """By model; a model without a limit has no line."""
    return {
        entry.id: Line(entry.max_concurrent, entry.max_queued)
        for entry in entries
        if entry.max_concurrent is not None
    }
