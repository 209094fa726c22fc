"""Running a planned request: limits, the exchange, and what it cost."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from server.auth import Principal
from server.config import Limits
from server.direct.keep_alive import KeepAlive
from server.engines.client import Work
from server.engines.pool import EnginePool
from server.errors import ApiError, InvalidRequest, RateLimited
from server.gate import ClientGone
from server.generation.caller import Caller
from server.generation.exchange import Exchange
from server.generation.line import Line
from server.generation.output import Output, Route
from server.generation.rates import RateMeter
from server.media import MediaLoader
from server.models.catalog import Catalog, Served
from server.usage import Accountant, Tally

_SPARE = "spare:"
"""Before a project's id where the lines of its batches are counted."""


class GenerationServices(Protocol):
    """What a generating endpoint needs of the app."""

    @property
    def catalog(self) -> Catalog: ...
    @property
    def pool(self) -> EnginePool: ...
    @property
    def keep_alive(self) -> KeepAlive: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def runner(self) -> Runner: ...
    @property
    def accountant(self) -> Accountant: ...
    @property
    def media(self) -> MediaLoader: ...


class GenerationHolder(Protocol):
    @property
    def services(self) -> GenerationServices: ...


class Plan(Route, Protocol):
    @property
    def served(self) -> Served: ...
    @property
    def works(self) -> Sequence[Work]: ...
    def name_error(self, error: ApiError) -> ApiError: ...


class Runner:
    def __init__(
        self,
        pool: EnginePool,
        accountant: Accountant,
        limits: Limits,
        rates: RateMeter,
        lines: Mapping[str, Line] | None = None,
        shared_caches: Collection[str] = (),
    ) -> None:
        self._pool = pool
        self.lines = lines or {}
        """Of the models whose concurrency is limited."""
        self._shared_caches = shared_caches
        self._accountant = accountant
        self._max_per_project = limits.max_requests_per_project
        self._max_answer_bytes = limits.max_answer_bytes
        self._rates = rates
        self._under_way: Counter[str] = Counter()

    @property
    def num_under_way(self) -> int:
        """Sequences being generated, of all projects."""
        return self._under_way.total()

    def run(
        self,
        principal: Principal,
        plan: Plan,
        output: Output,
        caller: Caller,
        *,
        answers_per_prompt: int = 1,
    ) -> None:
        """Starts it; events do the rest until the caller is answered. Raises ApiError, and
        ClientGone if nobody is there to answer any more."""
        if caller.over:
            raise ClientGone
        works, is_spare = plan.works, caller.call.is_spare
        account = _SPARE + principal.project.id if is_spare else principal.project.id
        exchange = Exchange(
            self._pool,
            plan,
            works,
            output,
            cache_scope=self._cache_scope(principal, plan.base_model),
            answers_per_prompt=answers_per_prompt,
            name_error=plan.name_error,
            max_answer_bytes=self._max_answer_bytes,
            is_spare=is_spare,
        )
        self._enter(account, len(works))
        try:
            self.admit(principal, plan.base_model, exchange.tally, caller)
        except RateLimited:
            self._under_way[account] -= len(works)
            raise
        caller.call.timing = exchange.timing
        model = plan.served.model.id
        caller.when_over(partial(self._settle, principal, account, model, exchange, len(works)))
        exchange.start()

    def _cache_scope(self, principal: Principal, base_model: str) -> str:
        """Projects see nothing of each other's prompts, unless the operator lets them share."""
        if base_model in self._shared_caches:
            return ""
        return hashlib.blake2b(principal.project.id.encode(), digest_size=16).hexdigest()

    async def place(self, base_model: str, caller: Caller) -> None:
        """Waits until the request is among the model's concurrent ones, where they are limited; it
        stays among them until it is answered. Raises Unavailable, and ClientGone if the caller
        hangs up meanwhile."""
        line = self.lines.get(base_model)
        if line is not None:
            await line.enter(caller)

    def admit(self, principal: Principal, base_model: str, tally: Tally, caller: Caller) -> None:
        """Counts a request and, when it is over, its tokens against the limits per minute. Raises
        RateLimited."""
        if not caller.call.is_spare and (self._rates.is_on or principal.rate_limits):
            ticket = self._rates.admit(principal, base_model, tally)
            caller.call.rates = ticket.headers
            caller.when_over(ticket.settle)

    @contextmanager
    def room(self, principal: Principal, count: int) -> Generator[None]:
        """Counts `count` pieces of work of a project while they are under way. Raises
        RateLimited."""
        self._enter(principal.project.id, count)
        try:
            yield
        finally:
            self._under_way[principal.project.id] -= count

    def _enter(self, account: str, count: int) -> None:
        """Raises InvalidRequest for what could never be admitted, and RateLimited."""
        if count > self._max_per_project:
            raise InvalidRequest(
                f"This request asks for {count} generations at once, and your project may have "
                f"{self._max_per_project}. Please send fewer in a request.",
                code="invalid_value",
            )
        if self._under_way[account] + count > self._max_per_project:
            raise RateLimited(
                "Too many generations are under way for your project. Please retry later.",
                retry_after_s=1.0,
            )
        self._under_way[account] += count

    def _settle(
        self, principal: Principal, account: str, model: str, exchange: Exchange, count: int
    ) -> None:
        exchange.abort()
        self._under_way[account] -= count
        self._accountant.record(principal, model, exchange.tally, is_spare=exchange.is_spare)
