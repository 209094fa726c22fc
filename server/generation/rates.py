"""Requests and tokens per minute: of each project or key, and of a project on a base model.

A bucket holds a minute's worth and refills steadily. A request is admitted while all its buckets
hold at least one; its tokens are taken when it is over, as nobody knows them before, so a token
bucket may go below empty and what follows waits until it has refilled.

The buckets are each gateway's own. What other gateways, and this one before it was started, have
served is taken from them as `learn` is told of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from server.auth import Principal
from server.config import Limits
from server.errors import RateLimited
from server.gate import Header
from server.store.records import RateLimit
from server.store.usage import RecentUse
from server.usage import Tally, minute_of

_MINUTE_S = 60.0
_KEPT_S = 120.0
"""How long a bucket that nobody uses is kept at least."""
_REQUESTS, _TOKENS = "requests", "tokens"

Place = tuple[str, str]
"""Whose a bucket is: a project's or key's id, and the base model or nothing."""


class _Bucket:
    """`served` is what this gateway took of it, by minute, and `elsewhere` what others have."""

    def __init__(self, kind: str, limit: int, whose: str) -> None:
        self.kind = kind
        self.limit = limit
        self.whose = whose
        self.left = float(limit)
        self.used_at = self._at = time.monotonic()
        self._served: dict[int, int] = {}
        self._elsewhere: dict[int, int] = {}

    def set_limit(self, limit: int) -> None:
        """What has been used of it stays used."""
        self.left += limit - self.limit
        self.limit = limit

    def refill(self) -> None:
        now = time.monotonic()
        refilled = (now - self._at) * self.limit / _MINUTE_S
        self.left = min(float(self.limit), self.left + refilled)
        self._at = now

    def serve(self, amount: int) -> None:
        """Notes what will be in the store's usage of this minute."""
        minute = minute_of(time.time())
        self._served[minute] = self._served.get(minute, 0) + amount

    def learn(self, used: Mapping[int, int], now: float) -> None:
        """`used` is everybody's use by minute, of this minute and the one before it. Of a minute
        that is over and not known yet, what has been refilled since is left out."""
        self.refill()
        known, self._elsewhere = self._elsewhere, {}
        for minute, amount in used.items():
            elsewhere = max(0, amount - self._served.get(minute, 0))
            over_for_s = now - (minute + _MINUTE_S)
            share = 1.0 if minute in known else min(1.0, max(0.0, 1 - over_for_s / _MINUTE_S))
            self.left -= (elsewhere - known.get(minute, 0)) * share
            self._elsewhere[minute] = elsewhere
        self._served = {m: n for m, n in self._served.items() if m > now - _KEPT_S}

    def is_idle(self, now: float) -> bool:
        return now - self.used_at > max(_KEPT_S, self.seconds_until(self.limit))

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

    _requests: Sequence[_Bucket]
    _tokens: Sequence[_Bucket]
    _tally: Tally

    def headers(self) -> list[Header]:
        """As things stand now; of several limits, the one of which least is left."""
        headers: list[Header] = []
        if self._requests:
            headers += min(self._requests, key=_left).headers(0)
        if self._tokens:
            headers += min(self._tokens, key=_left).headers(_total(self._tally))
        return headers

    def settle(self) -> None:
        """Takes the tokens it has used."""
        used = _total(self._tally)
        for bucket in self._requests:
            bucket.serve(1)
        for bucket in self._tokens:
            bucket.refill()
            bucket.left -= used
            bucket.serve(used)
        self._requests = self._tokens = ()


@dataclass(slots=True)
class RateMeter:
    _limits: Limits
    _buckets: dict[tuple[Place, str], _Bucket] = field(default_factory=dict, init=False)
    _recent: dict[Place, tuple[dict[int, int], dict[int, int]]] = field(
        default_factory=dict, init=False
    )
    """Requests and tokens by minute, as last learnt."""

    @property
    def is_on(self) -> bool:
        """Whether there are limits for everybody."""
        limits = self._limits
        return limits.requests_per_minute is not None or limits.tokens_per_minute is not None

    @property
    def is_used(self) -> bool:
        """Whether there is something to learn for."""
        return bool(self._buckets)

    def admit(self, principal: Principal, base_model: str, tally: Tally) -> Ticket:
        """`tally` is the request's own, and counts on. Raises RateLimited."""
        limits, project = self._limits, principal.project.id
        place = principal.key_id if limits.per_minute_of == "key" else project
        of_all = RateLimit(limits.requests_per_minute, limits.tokens_per_minute)
        of_model = principal.rate_limits.get(base_model, RateLimit())
        requests: list[_Bucket] = []
        tokens: list[_Bucket] = []
        for where, whose, limit in (
            ((place, ""), limits.per_minute_of, of_all),
            ((project, base_model), f"project and model '{base_model}'", of_model),
        ):
            if limit.requests is not None:
                requests.append(self._bucket(where, _REQUESTS, limit.requests, whose))
            if limit.tokens is not None:
                tokens.append(self._bucket(where, _TOKENS, limit.tokens, whose))
        ticket = Ticket(requests, tokens, tally)
        for bucket in (*requests, *tokens):
            bucket.refill()
            bucket.used_at = time.monotonic()
            if bucket.left < 1:
                raise _refusal(bucket, ticket)
        for bucket in requests:
            bucket.left -= 1
        return ticket

    def learn(self, recent: Sequence[RecentUse], now: float | None = None) -> None:
        """`recent` is all of what everybody used in this minute and in the one before it. What is
        full and idle at `now` (of the monotonic clock) is forgotten."""
        self._recent = {}
        for use in recent:
            for place in ((use.project_id, ""), (use.key_id, ""), (use.project_id, use.base_model)):
                counts = self._recent.setdefault(place, ({}, {}))
                for by_minute, amount in zip(counts, (use.requests, use.tokens), strict=True):
                    by_minute[use.minute] = by_minute.get(use.minute, 0) + amount
        for (place, _), bucket in self._buckets.items():
            self._teach(bucket, place)
        now = time.monotonic() if now is None else now
        self._buckets = {
            place: bucket for place, bucket in self._buckets.items() if not bucket.is_idle(now)
        }

    def _bucket(self, place: Place, kind: str, limit: int, whose: str) -> _Bucket:
        bucket = self._buckets.get((place, kind))
        if bucket is None:
            bucket = self._buckets[place, kind] = _Bucket(kind, limit, whose)
            self._teach(bucket, place)
        elif bucket.limit != limit:
            bucket.set_limit(limit)
        return bucket

    def _teach(self, bucket: _Bucket, place: Place) -> None:
        requests, tokens = self._recent.get(place, ({}, {}))
        bucket.learn(requests if bucket.kind == _REQUESTS else tokens, time.time())


def _refusal(bucket: _Bucket, ticket: Ticket) -> RateLimited:
    wait_s = bucket.seconds_until(1)
    error = RateLimited(
        f"Rate limit reached for your {bucket.whose} on {bucket.kind} per minute: limit "
        f"{bucket.limit}. Please try again in {duration(wait_s)}.",
        retry_after_s=wait_s,
        kind=bucket.kind,
    )
    error.headers += tuple((name.decode(), value.decode()) for name, value in ticket.headers())
    return error


def _left(bucket: _Bucket) -> float:
    return bucket.left


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
