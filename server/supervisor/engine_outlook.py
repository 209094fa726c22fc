"""Whether there will be an engine for what a job makes: asked before and while it trains, so that
no one waits to the end for what cannot be served."""

from __future__ import annotations

import asyncio
import time

from server.config import Config, ModelEntry
from server.errors import ApiError
from server.fine_tuning.hyperparameters import given_of
from server.fine_tuning.servable import check_engine, check_rank, never_starts
from server.store.records import Job, JobError
from server.supervisor.engine_keeper import EngineKeeper
from workers.contract.parameters import FinetuningType

GRACE_S = 10.0
"""An engine that has failed may start at the next try."""
CHECK_INTERVAL_S = 1.0


class NotServableError(Exception):
    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


class EngineOutlook:
    """An engine that has been ready since the job began is waited for, whatever becomes of it; so
    is the engine of a job that has been trained in part."""

    def __init__(self, job: Job, entry: ModelEntry, config: Config, engines: EngineKeeper) -> None:
        self._job = job
        self._entry = entry
        self._run_dir = config.run_dir
        self._engines = engines
        self._was_ready = job.train_seq > 0
        self._failing_since: float | None = None
        self._checked_at = 0.0

    async def settle(self) -> None:
        """Returns once the engine is not known to fail. Raises NotServableError."""
        await self.check()
        while self._failing_since is not None:
            await asyncio.sleep(CHECK_INTERVAL_S)
            await self.check()

    async def check(self) -> None:
        """Often called, looks now and then. Raises NotServableError."""
        now = time.monotonic()
        if self._was_ready or now - self._checked_at < CHECK_INTERVAL_S:
            return
        self._checked_at = now
        plan = self._job.plan
        hello = self._engines.hello(plan.engine_model) or self._engines.hello(self._entry.id)
        if hello is not None:
            self._was_ready, self._failing_since = True, None
            wanted = given_of(self._job)
            try:
                check_engine(self._entry, hello, wanted.result, wanted.where())
                if wanted.result is FinetuningType.LORA:
                    check_rank(self._entry, wanted.rank, hello, wanted.where())
            except ApiError as error:
                raise NotServableError(
                    JobError("model_not_available", error.message, error.param)
                ) from error
        elif not await self.is_failing():
            self._failing_since = None
        elif self._failing_since is None:
            self._failing_since = now
        elif now - self._failing_since > GRACE_S:
            raise NotServableError(JobError("model_not_available", self.advice, "model"))

    async def is_failing(self) -> bool:
        return await asyncio.to_thread(never_starts, self._run_dir, self._entry)

    @property
    def advice(self) -> str:
        return (
            f"The engine of the model '{self._entry.id}' does not start, so what is trained on it "
            "cannot be served. Create the job again once the operator has seen to it: the "
            "service's terminal says why, and where the engine's log is."
        )
