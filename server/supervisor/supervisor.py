"""The supervisor's loop: it claims jobs, keeps their leases, and tells running ones what their
users have asked for."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from functools import partial
from secrets import token_hex

from server.blobs import Blobs, LocalBlobs
from server.config import Config
from server.engines.start_failures import forget_failures
from server.launchers import LocalLauncher
from server.store import Store, open_store
from server.store.records import EventLevel, Job, NewEvent
from server.supervisor.arriving import Arriving
from server.supervisor.checking import check_job
from server.supervisor.departure import Departure
from server.supervisor.duty import take_duty
from server.supervisor.engine_keeper import EngineKeeper
from server.supervisor.engine_rows import EngineRows
from server.supervisor.entry_adapters import EntryAdapters
from server.supervisor.janitor import Janitor
from server.supervisor.left_workers import LeftWorkers
from server.supervisor.patience import Patience
from server.supervisor.training import Training, Workshop
from server.supervisor.warm_trainer import WarmTrainer
from server.supervisor.webhooks import WebhookTeller
from server.supervisor.workplace import Workplace

logger = logging.getLogger(__name__)

TICK_S = 0.25
"""How soon a new job, a cancellation or a pause is seen."""
LEASE_S = 10.0
RENEW_INTERVAL_S = 2.0

_STARTED = NewEvent("Fine-tuning job started")
_INTERRUPTED = NewEvent(
    "Fine-tuning job was interrupted and goes on from its last saved state", EventLevel.WARN
)


class Supervisor:
    def __init__(
        self,
        config: Config,
        store: Store,
        blobs: Blobs,
        patience: Patience,
        departure: Departure,
    ) -> None:
        self.id = f"supervisor-{token_hex(8)}"
        self._config = config
        self._store = store
        self._blobs = blobs
        self._patience = patience
        launcher = LocalLauncher()
        logs_dir = config.data / "logs"
        self._rows = EngineRows(self.id, store, patience)
        self._left = LeftWorkers(config.run_dir, launcher)
        workplace = Workplace(
            store,
            self._rows,
            launcher,
            self._left,
            departure,
            patience,
            config.run_dir,
            logs_dir,
        )
        self._arriving = Arriving(config.run_dir)
        self._engines = EngineKeeper(config, workplace, self._arriving)
        self._warm_trainer = WarmTrainer(launcher, config.training, logs_dir)
        self._workshop = Workshop(
            self.id, config, store, blobs, launcher, self._engines, self._warm_trainer, patience
        )
        self._trainings: dict[str, tuple[Training, asyncio.Task[None]]] = {}
        self._check: asyncio.Task[None] | None = None

    async def run(self, predecessor: str | None) -> None:
        """Until cancelled. Jobs under way are saved and given up for another supervisor (or the
        next start) to go on with; all processes are gone then, but for engine workers that are
        left to it. No fault of the store ends this."""
        forget_failures(self._config.run_dir)
        living = await asyncio.to_thread(self._left.find)
        janitor = Janitor(self.id, self._config, self._store, self._blobs, self._patience)
        webhooks = WebhookTeller(self._config.webhooks, self._store, self._patience)
        entry_adapters = EntryAdapters(self._config, self._store, self._engines, self._patience)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_over(predecessor, living))
            group.create_task(self._arriving.run())
            group.create_task(self._engines.run())
            group.create_task(entry_adapters.run())
            group.create_task(self._warm_trainer.run())
            group.create_task(janitor.run())
            group.create_task(webhooks.run())
            group.create_task(self._patience.repeat(self._renew_leases, RENEW_INTERVAL_S))
            group.create_task(self._work())

    async def _take_over(self, predecessor: str | None, living: list[str]) -> None:
        if predecessor is not None:
            await self._patience.insist(self._rows.take_over, predecessor, living)
            await self._patience.insist(self._store.progress.release_all, predecessor)
        await self._patience.insist(self._register_models)
        self._engines.registered.set()

    async def _register_models(self) -> None:
        adapters = [adapter.id for entry in self._config.models for adapter in entry.adapters]
        await self._store.configured_adapters.retire_others(adapters)
        for entry in self._config.models:
            await self._store.models.put_base(
                entry.id, entry.path, entry.owned_by, int(time.time())
            )
        await self._store.models.retire_bases([entry.id for entry in self._config.models])
        await self._store.aliases.configure(self._config.aliases)

    async def _renew_leases(self) -> None:
        """A lease that ran out meanwhile lets another supervisor of the same database take the job.
        It writes nothing of the run before this one's trainer is gone: that holds the run's lock;
        and what this one reports of the job is refused."""
        await self._store.progress.renew(self.id, LEASE_S)
        await self._rows.beat()

    async def _work(self) -> None:
        try:
            await self._patience.repeat(self._look_and_claim, TICK_S)
        finally:
            await asyncio.shield(self._leave())

    async def _look_and_claim(self) -> None:
        await self._look()
        await self._claim()

    async def _look(self) -> None:
        """Tells every training its job's state; None to one whose job is another's by now."""
        trainings = [training for training, _ in self._trainings.values()]
        if not trainings:
            return
        statuses = await self._store.progress.statuses(self.id)
        for training in trainings:
            training.status = statuses.get(training.job.id)

    async def _claim(self) -> None:
        if self._check is None or self._check.done():
            job = await self._store.progress.claim_validation(self.id, LEASE_S)
            if job is not None:
                self._check = asyncio.create_task(self._validate(job))
        num_training = sum(training.holds_slot for training, _ in self._trainings.values())
        if num_training < self._config.training.max_concurrent_jobs:
            job = await self._store.progress.claim_training(
                self.id, LEASE_S, _STARTED, _INTERRUPTED
            )
            if job is not None:
                training = Training(job, self._workshop)
                task = asyncio.create_task(self._train(training), name=f"training {job.id}")
                self._trainings[job.id] = (training, task)

    async def _validate(self, job: Job) -> None:
        await self._patience.insist(check_job, job, self.id, self._config, self._store, self._blobs)

    async def _train(self, training: Training) -> None:
        """Cancelled, it leaves the job's release to `_leave`."""
        logger.info("job claimed", extra={"job": training.job.id})
        try:
            await training.run()
        except Exception:
            logger.exception("job left by a fault", extra={"job": training.job.id})
        finally:
            self._trainings.pop(training.job.id, None)
        await self._patience.insist(self._store.progress.release, self.id, training.job.id)
        logger.info("job left", extra={"job": training.job.id, "status": training.status})

    async def _leave(self) -> None:
        tasks = [task for _, task in self._trainings.values()]
        if self._check is not None:
            tasks.append(self._check)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._patience.attempt(partial(self._store.progress.release_all, self.id))


async def run_supervisor(config: Config, departure: Departure) -> None:
    """Until cancelled. Of several on one data directory one works, and the others stand by to take
    over from it: they would start the same engine workers again."""
    for folder in (config.data, config.run_dir, config.jobs_dir, config.data / "logs"):
        folder.mkdir(parents=True, exist_ok=True)
    config.run_dir.chmod(0o700)
    patience = Patience()
    async with AsyncExitStack() as stack:
        duty = await take_duty(config.run_dir / "supervisor.lock")
        stack.callback(duty.end)
        store = await patience.insist(open_store, config.database_url)
        stack.push_async_callback(store.close)
        blobs = LocalBlobs(config.files_dir)
        supervisor = Supervisor(config, store, blobs, patience, departure)
        await supervisor.run(duty.begin(supervisor.id))
