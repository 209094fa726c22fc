"""A job whose store or disk takes nothing for a while: it waits, and its events say so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from server.store import Store
from server.store.records import EventLevel, NewEvent
from server.supervisor.patience import (
    FIRST_PAUSE_S,
    LAST_PAUSE_S,
    Patience,
    is_no_room,
    passes,
)

P = ParamSpec("P")
T = TypeVar("T")

WAITS = "There is no room left on the server's disk. The job waits for it."
GOES_ON = "There is room on the server's disk again. The job goes on."


class JobGone(Exception):
    """The job was ended, or is another supervisor's, while it waited."""


class JobWaiting:
    def __init__(
        self,
        job_id: str,
        supervisor_id: str,
        store: Store,
        patience: Patience,
        is_gone: Callable[[], bool],
    ) -> None:
        self._job_id = job_id
        self._supervisor_id = supervisor_id
        self._store = store
        self._patience = patience
        self._is_gone = is_gone

    async def persist(
        self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Until it succeeds, or fails in a way that does not pass. Raises JobGone."""
        what = f"{getattr(call, '__qualname__', call)} of {self._job_id}"
        pause_s = FIRST_PAUSE_S
        notice: NewEvent | None = None
        is_told = False
        while True:
            try:
                result = await call(*args, **kwargs)
                break
            except Exception as error:
                if not passes(error):
                    raise
                if self._is_gone():
                    raise JobGone from error
                self._patience.met(what, error)
                if notice is None and is_no_room(error):
                    notice = NewEvent(WAITS, EventLevel.WARN, created_at=int(time.time()))
            is_told = is_told or await self._tell(notice)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)
        self._patience.over(what)
        if notice is not None and not self._is_gone():
            if not is_told:
                await self._tell(notice)
            await self._tell(NewEvent(GOES_ON))
        return result

    async def _tell(self, event: NewEvent | None) -> bool:
        """Whether it could be written."""
        if event is None:
            return False
        try:
            await self._store.progress.note(self._supervisor_id, self._job_id, event)
        except Exception as error:
            if not passes(error):
                raise
            return False
        return True
