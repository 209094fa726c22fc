"""One engine worker, kept running: started, connected to, watched, and started again.

The row in the store says `ready` only while the worker answers on its socket. Every start gets a
socket of its own, so a worker that is slow to leave is never mistaken for its successor.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from server.engines.client import EngineConnection, EngineUnreachable
from server.engines.connecting import connect_engine
from server.engines.start_failures import Part, StartFailure, forget_failure, note_failure
from server.environments.locate import EnvironmentMissingError, engine_python
from server.launchers import Launcher, Process, ProcessSpec
from server.store import Store
from server.store.identifiers import random_id
from server.store.records import Engine, EngineState
from server.supervisor.engine_spec import ServedModel, engine_spec, write_spec
from server.supervisor.slot import Slot
from server.supervisor.worker_log import last_error

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 600.0
"""For loading the weights."""
STOP_GRACE_S = 5.0
SILENCE_LIMIT_S = 120.0
"""A worker reports about once a second; one that is silent for so long hangs."""
FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 30.0
STEADY_AFTER_S = 60.0
"""A worker that ran so long starts the next series of failures anew."""
_CONNECT_INTERVAL_S = 0.05
_WATCH_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class Workplace:
    """What all slots of a supervisor share."""

    supervisor_id: str
    store: Store
    launcher: Launcher
    run_dir: Path
    logs_dir: Path


class EngineSlot(Slot):
    def __init__(self, served: ServedModel, workplace: Workplace, number: int = 1) -> None:
        """`number` tells it from the model's other workers on this host."""
        super().__init__()
        self.served = served
        self._part = Part(served.model_id, engine=f"replica {number}")
        self._workplace = workplace
        self._log_path: Path | None = None
        """Of the newest worker, if one could be started."""

    async def run(self) -> None:
        """Until cancelled; the worker is gone then, and its row."""
        try:
            await self._keep_running()
        finally:
            forget_failure(self._workplace.run_dir, self._part)

    async def _keep_running(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            started = time.monotonic()
            try:
                await self._run_once()
            except (OSError, EngineUnreachable, EnvironmentMissingError) as error:
                self._note_failure(error)
            if time.monotonic() - started > STEADY_AFTER_S:
                backoff_s = FIRST_BACKOFF_S
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)

    def _note_failure(self, error: Exception) -> None:
        log = self._log_path
        reason = (last_error(log) if log is not None else None) or str(error)
        self._log("engine failed", logging.ERROR, error=str(error), reason=reason)
        failure = StartFailure(self._part, reason, None if log is None else str(log), time.time())
        note_failure(self._workplace.run_dir, failure)

    async def _run_once(self) -> None:
        self._log_path = None
        engine_id = random_id("engine-", 12)
        spec_path = self._workplace.run_dir / f"{engine_id}.json"
        socket_path = self._workplace.run_dir / f"{engine_id}.sock"
        process = await self._start(engine_id, spec_path, socket_path)
        self._log("engine started", pid=process.pid, engine=engine_id)
        try:
            engine = await self._announce(engine_id, socket_path, process)
            connection = await self._connect(engine, process)
            self._connection = connection
            await self._workplace.store.engines.put(
                replace(engine, state=EngineState.READY, heartbeat_at=time.time())
            )
            self.ready.set()
            forget_failure(self._workplace.run_dir, self._part)
            self._log("engine ready", pid=process.pid, engine=engine_id)
            await self._watch(connection, process, engine)
        finally:
            self.ready.clear()
            await asyncio.shield(self._end(engine_id, process, spec_path, socket_path))

    async def _start(self, engine_id: str, spec_path: Path, socket_path: Path) -> Process:
        entry = self.served.entry
        python = engine_python(entry.engine.value, entry.python)

        def command(parent_fd: int) -> list[str]:
            write_spec(spec_path, engine_spec(self.served, f"unix:{socket_path}", parent_fd))
            return [python, "-m", "workers.engine", "--spec", str(spec_path)]

        self._log_path = log = self._workplace.logs_dir / f"{engine_id}.log"
        return await self._workplace.launcher.start(ProcessSpec(command, log))

    async def _announce(self, engine_id: str, socket_path: Path, process: Process) -> Engine:
        engine = Engine(
            id=engine_id,
            model_id=self.served.model_id,
            address=f"unix:{socket_path}",
            token=None,
            state=EngineState.STARTING,
            supervisor_id=self._workplace.supervisor_id,
            pid=process.pid,
            heartbeat_at=time.time(),
        )
        await self._workplace.store.engines.put(engine)
        return engine

    async def _connect(self, engine: Engine, process: Process) -> EngineConnection:
        """Ready is when the worker says hello. Raises EngineUnreachable."""
        ended = asyncio.ensure_future(process.wait())
        deadline = time.monotonic() + START_TIMEOUT_S
        try:
            while time.monotonic() < deadline:
                if ended.done():
                    raise EngineUnreachable(f"the worker ended with status {ended.result()}")
                try:
                    return await connect_engine(
                        engine.id, engine.model_id, engine.address, engine.token
                    )
                except EngineUnreachable:
                    await asyncio.wait([ended], timeout=_CONNECT_INTERVAL_S)
        finally:
            ended.cancel()
        raise EngineUnreachable(f"the worker was not ready within {START_TIMEOUT_S:.0f} s")

    async def _watch(self, connection: EngineConnection, process: Process, engine: Engine) -> None:
        """Returns when the worker is gone or hangs. One that was told to leave by somebody else
        gets no new requests meanwhile."""
        is_draining = False
        ended = asyncio.ensure_future(process.wait())
        last_stats, last_change = connection.stats, time.monotonic()
        try:
            while not connection.closed:
                done, _ = await asyncio.wait([ended], timeout=_WATCH_INTERVAL_S)
                if done:
                    break
                if connection.leaving and not is_draining:
                    is_draining = True
                    await self._workplace.store.engines.put(
                        replace(engine, state=EngineState.DRAINING, heartbeat_at=time.time())
                    )
                if connection.stats is not last_stats:
                    last_stats, last_change = connection.stats, time.monotonic()
                elif time.monotonic() - last_change > SILENCE_LIMIT_S:
                    self._log("engine hangs", logging.ERROR, engine=connection.engine_id)
                    break
        finally:
            ended.cancel()

    async def _end(
        self, engine_id: str, process: Process, spec_path: Path, socket_path: Path
    ) -> None:
        """The row goes first, so that no new request is sent to a worker that leaves."""
        await self._workplace.store.engines.remove(engine_id)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        status = await process.terminate(STOP_GRACE_S)
        self._log("engine ended", logging.WARNING, engine=engine_id, status=status)
        for path in (spec_path, socket_path):
            path.unlink(missing_ok=True)

    def _log(self, message: str, level: int = logging.INFO, **details: Any) -> None:
        logger.log(level, message, extra={"model": self.served.model_id, **details})
