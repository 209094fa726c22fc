"""Requests and tokens per minute, for each project or key.

A bucket holds a minute's worth and refills steadily. A request is admitted while both buckets hold
at least one; its tokens are taken when it is over, as nobody knows them before, so the token bucket
may go below empty and what follows waits until it has refilled. Kept in memory: a restarted
gateway begins with full buckets.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from server.auth import Principal
from server.config import Limits
from server.errors import RateLimited
from server.gate import Header
from server.usage import Tally

_MINUTE_S = 60.0


@dataclass(slots=True)
class _Bucket:
    kind: str
    limit: int
    left: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self.left = float(self.limit)
        self._at = time.monotonic()

    def refill(self) -> None:
        now = time.monotonic()
        refilled = (now - self._at) * self.limit / _MINUTE_S
        self.left = min(float(self.limit), self.left + refilled)
        self._at = now

    def seconds_until(self, amount: float) -> float:
        return max(0.0, (amount - self.left) * _MINUTE_S / self.limit)

    def headers(self, pending: int) -> list[Header]:
        """`pending` is what the request itself has used so far and is yet to be taken."""
        self.refill()
        kind = self.kind.encode()
        left = self.left - pending
        reset_s = (self.limit - left) * _MINUTE_S / self.limit
        return [
            (b"x-ratelimit-limit-" + kind, b"%d" % self.limit),
            (b"x-ratelimit-remaining-" + kind, b"%d" % max(0, int(left))),
            (b"x-ratelimit-reset-" + kind, duration(reset_s).encode()),
        ]


@dataclass(slots=True)
class Ticket:
    """One admitted request."""

    _requests: _Bucket | None
    _tokens: _Bucket | None
    _tally: Tally

    def headers(self) -> list[Header]:
        """As things stand now."""
        headers: list[Header] = []
        if self._requests is not None:
            headers += self._requests.headers(0)
        if self._tokens is not None:
            headers += self._tokens.headers(_total(self._tally))
        return headers

    def settle(self) -> None:
        """Takes the tokens it has used."""
        if self._tokens is not None:
            self._tokens.refill()
            self._tokens.left -= _total(self._tally)
        self._tokens = self._requests = None


class RateMeter:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    @property
    def is_on(self) -> bool:
        limits = self._limits
        return limits.requests_per_minute is not None or limits.tokens_per_minute is not None

    def admit(self, principal: Principal, tally: Tally) -> Ticket:
        """`tally` is the request's own, and counts on. Raises RateLimited."""
        per_key = self._limits.per_minute_of == "key"
        place = principal.key_id if per_key else principal.project.id
        requests = self._bucket(place, "requests", self._limits.requests_per_minute)
        tokens = self._bucket(place, "tokens", self._limits.tokens_per_minute)
        ticket = Ticket(requests, tokens, tally)
        for bucket in (requests, tokens):
            if bucket is not None:
                bucket.refill()
                if bucket.left < 1:
                    raise _refusal(bucket, self._limits.per_minute_of, ticket)
        if requests is not None:
            requests.left -= 1
        return ticket

    def _bucket(self, place: str, kind: str, limit: int | None) -> _Bucket | None:
        if limit is None:
            return None
        bucket = self._buckets.get((place, kind))
        if bucket is None:
            bucket = self._buckets[place, kind] = _Bucket(kind, limit)
        return bucket


def _refusal(bucket: _Bucket, whose: str, ticket: Ticket) -> RateLimited:
    wait_s = bucket.seconds_until(1)
    error = RateLimited(
        f"Rate limit reached for your {whose} on {bucket.kind} per minute: limit {bucket.limit}. "
        f"Please try again in {duration(wait_s)}.",
        retry_after_s=wait_s,
        kind=bucket.kind,
    )
    error.headers += tuple((name.decode(), value.decode()) for name, value in ticket.headers())
    return error


def _total(tally: Tally) -> int:
    return tally.prompt_tokens + tally.completion_tokens


def duration(seconds: float) -> str:
    """As OpenAI writes it: `17ms`, `1.5s`, `6m0s`."""
    ms = max(0, round(seconds * 1000))
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest_ms = divmod(ms, 60_000)
    rest = f"{rest_ms / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{minutes}m{rest}" if minutes else rest
