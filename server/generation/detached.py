"""A caller without a connection: a response in the background, a stored answer, a line of a batch.

caller = DetachedCaller(principal)
answer = await caller.attend(endpoint.answer(principal, request, caller))
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from server.auth import Principal
from server.errors import ApiError, InternalError
from server.faults import answer_to
from server.gate import Call, ClientGone, Header
from server.logs import request_id_context

logger = logging.getLogger(__name__)


class Answered(msgspec.Struct, frozen=True):
    """`status` and `body` are those that a connection would have got."""

    status: int
    body: bytes
    error: ApiError | None = None


class DetachedCaller:
    def __init__(self, principal: Principal, *, is_spare: bool = False) -> None:
        self.call = Call()
        self.call.principal = principal
        self.call.is_spare = is_spare
        self.answered: Answered | None = None
        """None while it is under way, and after `abandon`."""
        self.over = False
        self._when_over: list[Callable[[], None]] = []
        self._over = asyncio.Event()

    async def attend(self, answering: Awaitable[None]) -> Answered:
        """Awaits what answers this caller, and its answer. Raises ClientGone if it is abandoned,
        which it is where the wait is cancelled."""
        request_id_context.set(self.call.request_id)
        try:
            await self._begin(answering)
            await self._over.wait()
        finally:
            self.abandon()
        if self.answered is None:
            raise ClientGone
        return self.answered

    def when_over(self, callback: Callable[[], None]) -> None:
        if self.over:
            callback()
        else:
            self._when_over.append(callback)

    def show_life(self) -> None:
        """Nobody looks."""

    def answer(self, status: int, body: bytes, headers: Sequence[Header] = ()) -> None:
        self._end(Answered(status, body))

    def refuse(self, error: ApiError) -> None:
        self._end(Answered(error.status, error.body(), error))

    def abandon(self) -> None:
        """The answer is not wanted any more: what is under way for it ends."""
        self._end(None)

    async def _begin(self, answering: Awaitable[None]) -> None:
        try:
            await answering
        except ApiError as error:
            self.refuse(error)
        except ClientGone:
            self.abandon()
        except Exception as error:
            answer = answer_to(error)
            if isinstance(answer, InternalError):
                logger.exception("request failed")
            self.refuse(answer)

    def _end(self, answered: Answered | None) -> None:
        if self.over:
            return
        self.over = True
        self.answered = answered
        self.call.status = 0 if answered is None else answered.status
        self._over.set()
        callbacks, self._when_over = self._when_over, []
        for callback in callbacks:
            callback()
