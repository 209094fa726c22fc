"""Which supervisor of a data directory works.

It holds a lock that the system takes back however it ends. The lock's file names it, so that its
successor knows at once whose jobs to go on with, without waiting for their leases to run out.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from server.launchers.launcher import LockHeldError
from server.launchers.local import take_lock

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.25
_MAX_NAME_BYTES = 256


class Duty:
    def __init__(self, lock: int) -> None:
        self._lock = lock

    def begin(self, supervisor_id: str) -> str | None:
        """Names the holder; returns the one before it, if there was any. Written over the name
        before, which a full disk has room for; without a name, leases tell when to go on."""
        before = os.pread(self._lock, _MAX_NAME_BYTES, 0).decode().strip()
        name = supervisor_id.encode()
        try:
            os.pwrite(self._lock, name, 0)
            os.ftruncate(self._lock, len(name))
        except OSError as error:
            logger.warning("this supervisor could not be named", extra={"reason": str(error)})
        return before or None

    def end(self) -> None:
        os.close(self._lock)


async def take_duty(path: Path) -> Duty:
    """Waits while another supervisor has it."""
    told = False
    while True:
        try:
            return Duty(take_lock(path))
        except LockHeldError:
            if not told:
                logger.info("another supervisor works on this data; standing by")
                told = True
            await asyncio.sleep(POLL_INTERVAL_S)
