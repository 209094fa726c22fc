"""Goes on when the store or a full disk does not: what a supervisor does is tried until it is done.

While a fault lasts it is logged once, not each time it is met.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn, ParamSpec, TypeVar

from server.blobs import StorageFullError
from server.store import StoreUnavailableError, StoreUnusableError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

FIRST_PAUSE_S = 0.5
LAST_PAUSE_S = 5.0
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_no_room(error: BaseException) -> bool:
    if isinstance(error, StorageFullError):
        return True
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def passes(error: BaseException) -> bool:
    """Whether trying again may help."""
    if isinstance(error, StoreUnusableError) and error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, StoreUnavailableError) or is_no_room(error)


class Patience:
    def __init__(self) -> None:
        self._lasting: set[tuple[str, str]] = set()
        """What is being tried again, and the kinds of faults that are logged."""

    async def insist(self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Until it succeeds, or fails in a way that does not pass."""
        what, pause_s = getattr(call, "__qualname__", repr(call)), FIRST_PAUSE_S
        while True:
            try:
                result = await call(*args, **kwargs)
            except Exception as error:
                if not passes(error):
                    raise
                self.met(what, error)
            else:
                self.over(what)
                return result
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    async def attempt(self, work: Callable[[], Awaitable[object]]) -> bool:
        """Once; whether it succeeded."""
        what = getattr(work, "__qualname__", repr(work))
        try:
            await work()
        except Exception as error:
            self.met(what, error)
            return False
        self.over(what)
        return True

    async def repeat(self, work: Callable[[], Awaitable[object]], interval_s: float) -> NoReturn:
        """For ever, whatever a round comes to; less often while it fails."""
        pause_s = interval_s
        while True:
            longer_s = min(max(2 * pause_s, FIRST_PAUSE_S), max(LAST_PAUSE_S, interval_s))
            pause_s = interval_s if await self.attempt(work) else longer_s
            await asyncio.sleep(pause_s)

    def met(self, what: str, error: Exception) -> None:
        kind = what, type(error).__name__
        if kind in self._lasting:
            return
        self._lasting.add(kind)
        extra = {"what": what, "reason": str(error)}
        logger.error("failed, and tried again", extra=extra, exc_info=not passes(error))

    def over(self, what: str) -> None:
        lasting = {kind for kind in self._lasting if kind[0] == what}
        if lasting:
            self._lasting -= lasting
            logger.info("succeeds again", extra={"what": what})
