"""Background responses: run without a connection, by the gateway that was asked for them.

A response's row is there before its creation is answered. This gateway renews the leases of its
rows; one that it does not get back was cancelled, was deleted or has failed meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from server.blobs import StorageFullError
from server.config import Limits
from server.errors import InternalError, RateLimited
from server.gate import ClientGone
from server.generation.answers import to_json
from server.generation.detached import DetachedCaller
from server.keeping import MAX_STORED_BYTES
from server.responses.event_log import EventLog, EventLogs
from server.responses.events import EventWriter
from server.responses.keeping import Place, too_large
from server.responses.objects import failed_response
from server.responses.output import BackgroundOutput, BegunResponse
from server.store import StoreUnavailableError
from server.store.background_responses import BackgroundResponses, TooManyResponsesError

logger = logging.getLogger(__name__)

LEASE_S = 15.0
_RENEW_INTERVAL_S = 1.0
_WRITE_TRIES = 10
_PAUSE_S = 1.0
"""Between them."""
_LOST = InternalError("The gateway that ran this response stopped, or could not keep its end.")

Start = Callable[[BackgroundOutput, DetachedCaller], Awaitable[None]]
"""Starts generating. Raises ApiError, and ClientGone."""


@dataclass(slots=True)
class _Run:
    begun: BegunResponse
    place: Place
    caller: DetachedCaller
    events: EventWriter
    task: asyncio.Task[None] | None = None
    marking: asyncio.Task[None] | None = None
    """Writes that it is in progress."""
    stored: bool = False
    """Whether its row is there."""

    @property
    def id(self) -> str:
        return self.begun.ids.response_id

    def as_now(self, status: str) -> dict[str, Any]:
        return {**self.begun.fields, "status": status}


class Background:
    """`start` and `close` must be called."""

    def __init__(self, rows: BackgroundResponses, limits: Limits, owner: str) -> None:
        self._rows = rows
        self._limits = limits
        self._owner = owner
        self._runs: dict[str, _Run] = {}
        self._watching: asyncio.Task[None] | None = None
        self.logs = EventLogs()

    def start(self) -> None:
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """What is under way ends as failed."""
        if self._watching is not None:
            self._watching.cancel()
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for run in [*self._runs.values()]:
            run.caller.refuse(_LOST)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(
        self,
        begun: BegunResponse,
        place: Place,
        caller: DetachedCaller,
        start: Start,
        *,
        obfuscates: bool,
    ) -> tuple[bytes, EventLog]:
        """The JSON of the queued response, and its events. Raises RateLimited."""
        if len(self._runs) >= self._limits.background_responses:
            raise _too_many("this server", self._limits.background_responses)
        log = self.logs.open(begun.ids.response_id)
        run = _Run(begun, place, caller, EventWriter(log.append, obfuscates=obfuscates))
        self._runs[run.id] = run
        queued = run.as_now("queued")
        body = to_json(queued)
        most = self._limits.background_responses_per_project
        try:
            await self._rows.add(place.row(queued, body), self._owner, LEASE_S, most)
            run.stored = True
        except TooManyResponsesError:
            raise _too_many("your project", most) from None
        finally:
            if not run.stored:
                self._forget(run)
        for kind in ("created", "queued"):
            run.events.send(f"response.{kind}", response=queued)
        run.task = asyncio.create_task(self._run(run, start))
        return body, log

    def abandon(self, response_id: str) -> None:
        """Stops generating it, if this gateway does: its row has ended or is gone."""
        run = self._runs.get(response_id)
        if run is not None:
            run.caller.abandon()

    async def cancel(self, project_id: str, response_id: str) -> None:
        """Ends it as cancelled, if it is under way."""
        await self._rows.cancel(project_id, response_id, cancelled)
        self.abandon(response_id)

    async def _run(self, run: _Run, start: Start) -> None:
        def when_begun() -> None:
            run.marking = asyncio.create_task(self._mark(run))

        try:
            output = BackgroundOutput(run.begun, run.events, run.caller, when_begun)
            answered = await run.caller.attend(start(output, run.caller))
            body = answered.body
            if answered.error is not None:
                body = to_json(failed_response(run.begun.fields, answered.error, []))
            await self._end(run, body)
        except ClientGone:
            logger.info("a background response was stopped", extra={"response": run.id})
        except Exception:
            logger.exception("a background response was not ended", extra={"response": run.id})
        finally:
            self._forget(run)

    async def _mark(self, run: _Run) -> None:
        with suppress(StoreUnavailableError, StorageFullError):
            body = to_json(run.as_now("in_progress")).decode()
            await self._rows.begin(run.id, self._owner, body)

    async def _end(self, run: _Run, body: bytes) -> None:
        if len(body) + len(run.place.input) > MAX_STORED_BYTES:
            body = to_json(failed_response(run.begun.fields, too_large(), []))
        if run.marking is not None:
            await asyncio.wait({run.marking})
        status = msgspec.json.decode(body, type=_Status).status
        fields = {**run.begun.fields, "status": status}
        row = run.place.row(fields, body)
        for tries_left in reversed(range(_WRITE_TRIES)):
            try:
                if await self._rows.end(row, self._owner):
                    run.events.send(f"response.{status}", response=msgspec.Raw(body))
                return
            except (StoreUnavailableError, StorageFullError):
                if not tries_left:
                    raise
                await asyncio.sleep(_PAUSE_S)

    def _forget(self, run: _Run) -> None:
        self._runs.pop(run.id, None)
        self.logs.end(run.id)

    async def _watch(self) -> None:
        while True:
            with suppress(StoreUnavailableError, StorageFullError):
                await self._rows.fail_expired(_failed)
                stored = {run_id for run_id, run in self._runs.items() if run.stored}
                if stored:
                    for lost in stored - await self._rows.renew(self._owner, LEASE_S):
                        self.abandon(lost)
            await asyncio.sleep(_RENEW_INTERVAL_S)


class _Status(msgspec.Struct):
    status: str


def cancelled(body: str) -> str:
    return to_json({**msgspec.json.decode(body), "status": "cancelled"}).decode()


def _failed(body: str) -> str:
    return to_json(failed_response(msgspec.json.decode(body), _LOST, [])).decode()


def _too_many(whose: str, most: int) -> RateLimited:
    return RateLimited(
        f"There are {most} background responses under way, which is as many as {whose} may have. "
        "Please retry when one has ended.",
        retry_after_s=5.0,
    )
