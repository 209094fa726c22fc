"""One engine worker on another host, as `tuneyard engine` runs it there: connected to, watched, and
connected to again. It is started and ended by its own host; here it is only said to be ready, in
the store, while it answers and serves the same as the model's other workers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.engines.client import EngineConnection, EngineUnreachable
from server.engines.connecting import connect_engine
from server.engines.start_failures import Part, StartFailure, forget_failure, note_failure
from server.store.records import Engine, EngineState
from server.supervisor.slot import Slot
from server.supervisor.workplace import Workplace
from workers.contract.hello import Hello

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
SILENCE_LIMIT_S = 30.0
FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 5.0
_WATCH_INTERVAL_S = 0.25

_AGREED = (
    "vocab_size",
    "max_model_len",
    "capabilities",
    "bos_token",
    "eos_token",
    "special_tokens",
    "chat_templates",
    "generation",
)
"""What requests are planned by: any replica may answer for all."""


@dataclass(frozen=True, slots=True)
class RemoteWorker:
    model_id: str
    address: str
    token_file: Path
    ca_file: Path | None = None
    number: int = 1
    """Its place in the entry's list."""

    @property
    def engine_id(self) -> str:
        """The same after a reconnection, so that conversations find their replica again."""
        digest = hashlib.blake2b(f"{self.model_id}\0{self.address}".encode(), digest_size=6)
        return f"engine-{digest.hexdigest()}"


class RemoteSlot(Slot):
    def __init__(
        self,
        worker: RemoteWorker,
        workplace: Workplace,
        other_hello: Callable[[], Hello | None],
    ) -> None:
        """`other_hello` gives what another replica says of itself, to be compared with."""
        super().__init__()
        self._worker = worker
        self._part = Part(worker.model_id, engine=f"address {worker.number}")
        self._run_dir = workplace.run_dir
        self._rows = workplace.rows
        self._departure = workplace.departure
        self._other_hello = other_hello
        self._trouble: str | None = None
        """What was logged last, as the same is not said again."""

    async def run(self) -> None:
        """Until cancelled; the row is gone then, unless it is left to another supervisor."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                await self._run_once()
                backoff_s = FIRST_BACKOFF_S
            except (OSError, EngineUnreachable, TimeoutError, ValueError) as error:
                self._report(str(error) or "no answer")
                backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)
            except Exception:
                logger.exception("engine not watched", extra={"address": self._worker.address})
                backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)
            await asyncio.sleep(backoff_s)

    async def _run_once(self) -> None:
        """Until the worker is gone. Raises EngineUnreachable, TimeoutError, OSError, ValueError."""
        worker = self._worker
        token = await asyncio.to_thread(read_token, worker.token_file)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            connection = await connect_engine(
                worker.engine_id, worker.model_id, worker.address, token, worker.ca_file
            )
        engine = Engine(
            id=worker.engine_id,
            model_id=worker.model_id,
            address=worker.address,
            token=token,
            state=EngineState.READY,
            supervisor_id=self._rows.supervisor_id,
            pid=None,
            heartbeat_at=time.time(),
        )
        try:
            self._check(connection)
            self._connection, self._trouble = connection, None
            await self._watch(connection, engine)
        finally:
            self.ready.clear()
            self._connection = None
            connection.close()
            if not self._departure.leaves_engines:
                await asyncio.shield(self._rows.remove(worker.engine_id))
        self._log("engine lost", logging.WARNING)

    async def _watch(self, connection: EngineConnection, engine: Engine) -> None:
        while not connection.closed:
            state = EngineState.DRAINING if connection.leaving else EngineState.READY
            if await self._rows.put(engine, state) and not self.ready.is_set():
                self.ready.set()
                forget_failure(self._run_dir, self._part)
                self._log("engine ready")
            await asyncio.sleep(_WATCH_INTERVAL_S)
            self._check(connection)
            connection.silent_s += _WATCH_INTERVAL_S
            if connection.silent_s > SILENCE_LIMIT_S:
                connection.abandon()
                raise EngineUnreachable("the worker is silent")

    def _check(self, connection: EngineConnection) -> None:
        """Raises EngineUnreachable."""
        hello = connection.hello
        other = self._other_hello()
        for name in () if other is None or other is hello else _AGREED:
            if getattr(hello, name) != getattr(other, name):
                raise EngineUnreachable(f"the worker's {name} is not that of the other replicas")

    def _report(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._log("engine not usable", logging.ERROR, error=trouble)
            reason = f"{self._worker.address}: {trouble}"
            note_failure(self._run_dir, StartFailure(self._part, reason, None, time.time()))

    def _log(self, message: str, level: int = logging.INFO, **details: Any) -> None:
        worker = self._worker
        logger.log(
            level,
            message,
            extra={"model": worker.model_id, "address": worker.address, **details},
        )


def read_token(path: Path) -> str:
    """The file's one line. Raises OSError, and ValueError if there is none."""
    token = path.read_text(encoding="utf-8").strip()
    if not token:
        raise ValueError(f"{path} is empty")
    return token
