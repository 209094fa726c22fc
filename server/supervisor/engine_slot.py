"""One engine worker, kept running: started or taken over, connected to, watched, started again.

The row in the store says `ready` only while the worker answers on its socket. Every start gets a
socket of its own, so a worker that is slow to leave is never mistaken for its successor.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.engines.client import EngineConnection, EngineUnreachable
from server.engines.connecting import connect_engine
from server.engines.start_failures import Part, StartFailure, forget_failure, note_failure
from server.environments.locate import EnvironmentMissingError, engine_python
from server.launchers import Process, ProcessSpec
from server.store.identifiers import random_id
from server.store.records import Engine, EngineState
from server.supervisor.engine_sockets import make_folder
from server.supervisor.engine_spec import ServedModel, engine_spec, write_spec
from server.supervisor.left_workers import EngineFiles
from server.supervisor.slot import Slot
from server.supervisor.worker_log import last_error
from server.supervisor.workplace import Workplace

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
_CONNECT_TIMEOUT_S = 5.0
_WATCH_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class _Worker:
    files: EngineFiles
    process: Process
    start_limit_s: float

    @property
    def address(self) -> str:
        return f"unix:{self.files.socket}"


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
        """Until cancelled. The worker is gone then, and its row, unless both are left to another
        supervisor."""
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
            except Exception:
                logger.exception("engine not kept running", extra={"model": self.served.model_id})
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
        worker = self._take_over() or await self._start()
        try:
            connection = await self._connect(worker)
            self._connection = connection
            await self._watch(connection, worker)
        finally:
            self.ready.clear()
            if not self._workplace.departure.leaves_engines:
                await asyncio.shield(self._end(worker))
            elif self._connection is not None:
                self._connection.close()

    def _take_over(self) -> _Worker | None:
        found = self._workplace.left.take(engine_spec(self.served, "", None))
        if found is None:
            return None
        engine_id = found.files.engine_id
        self._log_path = self._workplace.logs_dir / f"{engine_id}.log"
        self._log("engine taken over", pid=found.process.pid, engine=engine_id)
        was_ready = found.files.socket.exists()
        limit_s = SILENCE_LIMIT_S if was_ready else START_TIMEOUT_S
        return _Worker(found.files, found.process, limit_s)

    async def _start(self) -> _Worker:
        entry, workplace = self.served.entry, self._workplace
        python = engine_python(entry.engine.value, entry.python)
        engine_id = random_id("engine-", 12)
        files = EngineFiles(workplace.run_dir, engine_id)

        def command(parent_fd: int) -> list[str]:
            spec = engine_spec(self.served, f"unix:{files.socket}", parent_fd)
            write_spec(files.spec, {**spec, "pid_file": str(files.pid)})
            return [python, "-m", "workers.engine", "--spec", str(files.spec)]

        self._log_path = log = workplace.logs_dir / f"{engine_id}.log"
        spec = ProcessSpec(command, log, life=workplace.departure.life)
        try:
            make_folder(files.socket)
            process = await workplace.launcher.start(spec)
        except OSError:
            files.remove()
            raise
        self._log("engine started", pid=process.pid, engine=engine_id)
        return _Worker(files, process, START_TIMEOUT_S)

    def _row(self, worker: _Worker) -> Engine:
        return Engine(
            id=worker.files.engine_id,
            model_id=self.served.model_id,
            address=worker.address,
            token=None,
            state=EngineState.STARTING,
            supervisor_id=self._workplace.rows.supervisor_id,
            pid=worker.process.pid,
            heartbeat_at=time.time(),
        )

    async def _connect(self, worker: _Worker) -> EngineConnection:
        """Ready is when the worker says hello. Raises EngineUnreachable."""
        ended = asyncio.ensure_future(worker.process.wait())
        deadline = time.monotonic() + worker.start_limit_s
        engine_id, model_id = worker.files.engine_id, self.served.model_id
        try:
            while time.monotonic() < deadline:
                if ended.done():
                    raise EngineUnreachable(f"the worker ended with status {ended.result()}")
                try:
                    async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                        return await connect_engine(engine_id, model_id, worker.address, None)
                except (EngineUnreachable, TimeoutError):
                    await asyncio.wait([ended], timeout=_CONNECT_INTERVAL_S)
        finally:
            ended.cancel()
        raise EngineUnreachable(f"the worker was not ready within {worker.start_limit_s:.0f} s")

    async def _watch(self, connection: EngineConnection, worker: _Worker) -> None:
        """Returns when the worker is gone or hangs. One that was told to leave by somebody else
        gets no new requests meanwhile. Silence is counted in rounds, so that a pause of this
        process is nobody's silence."""
        ended = asyncio.ensure_future(worker.process.wait())
        row = self._row(worker)
        try:
            while not connection.closed:
                state = EngineState.DRAINING if connection.leaving else EngineState.READY
                if await self._workplace.rows.put(row, state):
                    self._note_ready(row)
                done, _ = await asyncio.wait([ended], timeout=_WATCH_INTERVAL_S)
                if done:
                    break
                connection.silent_s += _WATCH_INTERVAL_S
                if connection.silent_s > SILENCE_LIMIT_S:
                    self._log("engine hangs", logging.ERROR, engine=connection.engine_id)
                    break
        finally:
            ended.cancel()

    def _note_ready(self, row: Engine) -> None:
        if not self.ready.is_set():
            self.ready.set()
            forget_failure(self._workplace.run_dir, self._part)
            self._log("engine ready", pid=row.pid, engine=row.id)

    async def _end(self, worker: _Worker) -> None:
        """The row goes first, so that no new request is sent to a worker that leaves."""
        await self._workplace.rows.remove(worker.files.engine_id)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        status = await worker.process.terminate(STOP_GRACE_S)
        engine_id = worker.files.engine_id
        self._log("engine ended", logging.WARNING, engine=engine_id, status=status)
        worker.files.remove()

    def _log(self, message: str, level: int = logging.INFO, **details: Any) -> None:
        logger.log(level, message, extra={"model": self.served.model_id, **details})
