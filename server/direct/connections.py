"""The connections of callers: how many there may be, and how long one may keep us waiting.

A connection that has no request under way can be closed for a new one, so only requests that are
being read or answered fill the gateway up. Then a few more connections are let in, and only the
probes are answered on them. Everything that depends on time is looked at twice a second for all
connections together: a timer for each would cost every request something.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import Counter, OrderedDict
from enum import StrEnum
from typing import Protocol

from server.config import Limits
from server.errors import ApiError, Unavailable

logger = logging.getLogger(__name__)

SWEEP_S = 0.5
_EXTRA = 32
"""Connections above the limit, for the probes and to say no on."""
_MOST_BY_DEFAULT = 16_384
_LEAST = 16
_MIN_RESERVE = 64
"""Open files that are left to the store, the engines and what requests fetch; of a large limit it
is a tenth."""
_UNREAD_TOTAL = 16
"""How many connections' `max_unread_bytes` all of them together may hold."""
_LOG_EVERY_S = 10.0


class Ended(StrEnum):
    """Why the gateway ended a connection, as `/metrics` has it."""

    REFUSED = "refused"
    MADE_ROOM = "made_room"
    HEAD_TIMEOUT = "head_timeout"
    BODY_TIMEOUT = "body_timeout"
    SEND_TIMEOUT = "send_timeout"
    UNREAD = "unread"


class Watched(Protocol):
    """A connection as it is looked at."""

    is_extra: bool
    """Above the limit: only the probes are answered on it."""

    @property
    def unsent_bytes(self) -> int: ...
    def sweep(self, now: float, limits: Limits) -> Ended | None:
        """Ends what has lasted too long, and says why."""
        ...

    def drop(self) -> None:
        """Closes it at once, with what was not sent."""
        ...


def raise_file_limit() -> None:
    """The number of files that the process may open, to what the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def room_for_connections(configured: int | None) -> int:
    """`limits.max_connections`, or less where the limit of open files has no room for as many."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return configured or _MOST_BY_DEFAULT
    room = max(_LEAST, files - _EXTRA - max(_MIN_RESERVE, files // 10))
    if configured is not None and configured > room:
        logger.warning(
            "limits.max_connections is more than the limit of open files has room for",
            extra={"max_connections": configured, "open_files": files, "used": room},
        )
    return min(room, configured or _MOST_BY_DEFAULT)


class Connections:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.max_open = room_for_connections(limits.max_connections)
        self.ended: Counter[Ended] = Counter()
        self._open: set[Watched] = set()
        self._idle: OrderedDict[Watched, None] = OrderedDict()
        """Those without a request, from the one that has been so for longest; and `_idle_extra`,
        of those above the limit."""
        self._idle_extra: OrderedDict[Watched, None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._logged_at = -_LOG_EVERY_S
        self._not_logged: Counter[Ended] = Counter()

    @property
    def num_open(self) -> int:
        return len(self._open)

    def add(self, connection: Watched) -> bool:
        """Whether it may stay."""
        if len(self._open) >= self.max_open and not self._make_room(self._idle):
            connection.is_extra = True
            is_over = len(self._open) >= self.max_open + _EXTRA
            if is_over and not self._make_room(self._idle_extra):
                return False
        self._open.add(connection)
        self.release(connection)
        if self._timer is None:
            self._schedule()
        return True

    def remove(self, connection: Watched) -> None:
        self._open.discard(connection)
        self.occupy(connection)

    def occupy(self, connection: Watched) -> None:
        """Its request's head has come."""
        (self._idle_extra if connection.is_extra else self._idle).pop(connection, None)

    def release(self, connection: Watched) -> None:
        """It has no request any more."""
        if connection in self._open:
            (self._idle_extra if connection.is_extra else self._idle)[connection] = None

    def refusal(self) -> ApiError:
        """Answers what is no probe, on a connection above the limit."""
        self.count(Ended.REFUSED)
        return Unavailable("The server has too many connections. Please retry later.")

    def count(self, reason: Ended) -> None:
        """For `/metrics` and, every few seconds, a line in the log."""
        self.ended[reason] += 1
        self._not_logged[reason] += 1
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY_S:
            counts = {kind.value: number for kind, number in self._not_logged.items()}
            extra = {"ended": counts, "open": len(self._open), "max_open": self.max_open}
            logger.warning("connections were ended by the gateway", extra=extra)
            self._logged_at = now
            self._not_logged.clear()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_room(self, idle: OrderedDict[Watched, None]) -> bool:
        """Ends the oldest to which nothing is still to be sent."""
        oldest = next((one for one in idle if not one.unsent_bytes), None)
        if oldest is None:
            return False
        self.remove(oldest)
        self.count(Ended.MADE_ROOM)
        oldest.drop()
        return True

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self.sweep)

    def sweep(self) -> None:
        """Looks at all connections, and again as long as there are some."""
        self.close()
        now = asyncio.get_running_loop().time()
        for connection in list(self._open):
            reason = connection.sweep(now, self.limits)
            if reason is not None:
                self.count(reason)
        self._bound_unread()
        if self._open:
            self._schedule()

    def _bound_unread(self) -> None:
        """Of all connections together; the one that holds most is ended first."""
        most = _UNREAD_TOTAL * self.limits.max_unread_bytes
        held = [(connection.unsent_bytes, connection) for connection in self._open]
        total = sum(size for size, _ in held)
        for size, connection in sorted(held, key=lambda one: -one[0]) if total > most else ():
            if total <= most:
                break
            total -= size
            self.count(Ended.UNREAD)
            connection.drop()
