"""How long one connection may keep the gateway waiting."""

from __future__ import annotations

from typing import Any, Protocol

from server.config import Limits
from server.direct.connections import Ended
from server.direct.request import DirectRequest
from server.errors import ApiError, RequestTimedOut

_PROBES_AT_ONCE = 2
_PROBE_EVERY = 20
"""Sweeps between two signs of life to a caller who has ended his side."""


class Kept(Protocol):
    """What is seen of a connection."""

    running: Any
    """The request whose turn it is, if any is."""
    in_head: bool
    body_bytes: int
    ended_by_caller: bool

    @property
    def is_busy(self) -> bool: ...
    @property
    def is_streaming(self) -> bool:
        """A direct request is under way: more may be added to what is not sent yet."""
        ...

    @property
    def reading_is_paused(self) -> bool: ...
    @property
    def unsent_bytes(self) -> int: ...
    def fail(self, error: ApiError) -> None: ...
    def hang_up(self) -> None: ...
    def drop(self) -> None: ...


class Patience:
    def __init__(self, connection: Kept, max_idle_s: float) -> None:
        self._connection = connection
        self._max_idle_s = max_idle_s
        self._is_new = True
        self._idle_since = 0.0
        self.rest_since: float | None = None
        """When the wait for the rest of a head or body began."""
        self._body_bytes = 0
        """Those that had come then."""
        self._unsent_bytes = 0
        self._unsent_since = 0.0
        self._num_probes = 0

    def open(self, now: float) -> None:
        self._idle_since = now

    def idle(self, now: float) -> None:
        """A request is answered, and no other waits."""
        self._idle_since = now
        self._is_new = False

    def rest(self, now: float, bytes_so_far: int) -> None:
        """A head or a body is not whole yet."""
        if self.rest_since is None:
            self.rest_since = now
            self._body_bytes = bytes_so_far
            self._is_new = False

    def sweep(self, now: float, limits: Limits) -> Ended | None:
        kept = self._connection
        if self._is_stuck(now, limits.send_timeout_s):
            kept.drop()
            return Ended.SEND_TIMEOUT
        if self.rest_since is not None:
            return self._sweep_rest(now, limits)
        if kept.is_busy:
            self._is_new = False
            if kept.ended_by_caller:
                self.probe()
        elif now - self._idle_since > (limits.head_timeout_s if self._is_new else self._max_idle_s):
            kept.hang_up()
            return Ended.HEAD_TIMEOUT if self._is_new else None
        return None

    def probe(self) -> None:
        """A caller who hung up refuses the first of two, and the second finds that out."""
        if self._num_probes < _PROBES_AT_ONCE or self._num_probes % _PROBE_EVERY == 0:
            running = self._connection.running
            if isinstance(running, DirectRequest):
                running.reply.show_life()
        self._num_probes += 1

    def _sweep_rest(self, now: float, limits: Limits) -> Ended | None:
        kept = self._connection
        assert self.rest_since is not None
        waited_s = now - self.rest_since
        if kept.in_head:
            if waited_s <= limits.head_timeout_s:
                return None
            kept.fail(RequestTimedOut("The request's head took too long to arrive."))
            return Ended.HEAD_TIMEOUT
        if kept.reading_is_paused:
            self.rest_since = now
        elif waited_s > limits.body_timeout_s:
            came = kept.body_bytes - self._body_bytes
            if came < limits.min_body_bytes_per_s * limits.body_timeout_s:
                kept.fail(RequestTimedOut("The request's body arrives too slowly."))
                return Ended.BODY_TIMEOUT
            self.rest_since, self._body_bytes = now, kept.body_bytes
        return None

    def _is_stuck(self, now: float, max_s: float) -> bool:
        """Whether nothing was taken of what is to be sent, while nothing is added to it."""
        unsent, before = self._connection.unsent_bytes, self._unsent_bytes
        self._unsent_bytes = unsent
        if unsent == 0 or unsent != before or self._connection.is_streaming:
            self._unsent_since = now
            return False
        return now - self._unsent_since > max_s
