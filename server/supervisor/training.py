"""Carries out one claimed job: trains it, records what the trainer reports, and makes the result
available. Whatever is interrupted is taken up again by whoever claims the job next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server.blobs import Blobs
from server.config import Config
from server.launchers import Launcher
from server.store import Store
from server.store.progress import Outcome, Report
from server.store.records import (
    EventLevel,
    Job,
    JobError,
    JobStatus,
    Model,
    ModelKind,
    NewCheckpoint,
    NewEvent,
)
from server.supervisor.engine_keeper import EngineKeeper, EngineRefusalError
from server.supervisor.engine_outlook import EngineOutlook, NotServableError
from server.supervisor.job_files import JobFiles
from server.supervisor.job_waiting import JobGone, JobWaiting
from server.supervisor.patience import Patience
from server.supervisor.run_log import (
    RunFold,
    RunLogReader,
    checkpoint_metrics,
    estimated_finish,
    events_of,
)
from server.supervisor.train_spec import build_train_spec, makes_adapter, resulting_model
from server.supervisor.trained_models import install
from server.supervisor.trainer_process import TrainerProcess
from server.supervisor.warm_trainer import WarmTrainer
from workers.contract.parts import AdapterRef
from workers.contract.training import CheckpointSaved, Step, TrainEvent

logger = logging.getLogger(__name__)

SERVING_LIMIT_S = 600.0
"""For an engine to load what was trained, restarts of the engine included."""
RESTART_PAUSE_S = 1.0
STATUS_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all trainings of a supervisor share."""

    supervisor_id: str
    config: Config
    store: Store
    blobs: Blobs
    launcher: Launcher
    engines: EngineKeeper
    warm_trainer: WarmTrainer
    patience: Patience


class JobFailedError(Exception):
    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


class Training:
    """`status` is kept up to date by the supervisor; None when the job is no longer ours."""

    def __init__(self, job: Job, workshop: Workshop) -> None:
        self.job = job
        self.status: JobStatus | None = job.status
        self.holds_slot = True
        """Until it is trained: waiting for an engine keeps no other job from training."""
        self._workshop = workshop
        self._dir = workshop.config.jobs_dir / job.id
        self._files = JobFiles(job, self._dir, workshop.blobs)
        held_out = bool(job.hyperparameters.get("val_size"))
        has_validation = job.plan.validation_blob is not None or held_out
        self._fold = RunFold(job.train_seq, has_validation)
        self._recorded_seq = job.train_seq
        self._last_step: Step | None = None
        self._owned_by = ""
        self._waiting = JobWaiting(
            job.id, workshop.supervisor_id, workshop.store, workshop.patience, self._is_gone
        )
        self._outlook = self._engine_outlook()

    def _is_gone(self) -> bool:
        return self.status not in (JobStatus.RUNNING, JobStatus.PAUSED)

    async def run(self) -> None:
        """Until the job has ended, was paused or cancelled, or is another supervisor's."""
        try:
            await self._carry_out()
        except JobGone:
            logger.info("job gone", extra={"job": self.job.id})
        except (JobFailedError, NotServableError) as failure:
            await self._fail(failure.error)
        except Exception:
            logger.exception("training failed", extra={"job": self.job.id})
            await self._fail(JobError("internal_error", "The job failed on an internal error."))
        if self.status is JobStatus.CANCELLED:
            await self._files.remove()

    async def _carry_out(self) -> None:
        await self._prepare()
        if not await self._train():
            return
        self.holds_slot = False
        completed = self._fold.completed
        assert completed is not None
        path = await self._install(completed.path)
        await self._publish(path, completed.trained_tokens)

    def _engine_outlook(self) -> EngineOutlook | None:
        """None for a base that is no longer configured."""
        config = self._workshop.config
        entry = config.model(self.job.plan.base)
        if entry is None:
            return None
        return EngineOutlook(self.job, entry, config, self._workshop.engines)

    async def _prepare(self) -> None:
        owner = await self._waiting.persist(self._workshop.store.projects.get, self.job.project_id)
        self._owned_by = owner.slug
        await self._waiting.persist(self._files.fetch)

    async def _install(self, path: str) -> Path:
        """Raises FileNotFoundError."""
        return await self._waiting.persist(
            asyncio.to_thread, install, Path(path), self._workshop.config.adapters_dir
        )

    async def _train(self) -> bool:
        """True once training is complete; False when it was stopped by its user or owner."""
        config = self._workshop.config
        entry = config.model(self.job.plan.base)
        if entry is None or self._outlook is None:
            message = f"The base model '{self.job.plan.base}' is no longer configured."
            raise JobFailedError(JobError("internal_error", message))
        settings = config.training
        spec = build_train_spec(self.job, settings, entry, config.templates, self._dir)
        trainer = TrainerProcess(
            self._workshop.launcher, self._workshop.warm_trainer, settings.python, self._dir
        )
        await self._catch_up()
        while self.status is JobStatus.RUNNING:
            if self._has_ended():
                return True
            await self._outlook.settle()
            process = await self._waiting.persist(trainer.start, spec)
            status = await trainer.follow(process, self._take)
            if self.status is not JobStatus.RUNNING:
                return False
            if self._has_ended():
                return True
            if status != 0:
                await self._count_death(status)
            await asyncio.sleep(RESTART_PAUSE_S)
        return False

    async def _catch_up(self) -> None:
        """Records what a trainer reported that nobody recorded: its supervisor had died."""
        events = await asyncio.to_thread(RunLogReader(self._dir / "events.ndjson").read)
        await self._take(events, True)

    def _has_ended(self) -> bool:
        """Raises JobFailedError."""
        failed = self._fold.failed
        if failed is not None:
            raise JobFailedError(JobError(failed.code, failed.message, failed.param))
        return self._fold.completed is not None

    async def _count_death(self, status: int) -> None:
        deaths = await self._waiting.persist(
            self._workshop.store.progress.count_death, self._workshop.supervisor_id, self.job.id
        )
        limit = self._workshop.config.training.max_restarts
        logger.warning(
            "trainer died", extra={"job": self.job.id, "status": status, "deaths": deaths}
        )
        if deaths is not None and deaths > limit:
            raise JobFailedError(
                JobError("internal_error", f"The trainer ended unexpectedly {deaths} times.")
            )

    async def _take(self, events: Sequence[TrainEvent], ended: bool) -> bool:
        self._fold.add(events)
        if self.status in (JobStatus.RUNNING, JobStatus.PAUSED):
            await self._record(self._fold.take(ended))
        if self._outlook is not None and self._fold.completed is None:
            await self._outlook.check()
        return self.status is JobStatus.RUNNING

    async def _record(self, events: list[TrainEvent]) -> None:
        if not events:
            return
        last_seq = events[-1].seq
        report = Report(
            last_seq=last_seq,
            events=tuple(events_of(events)),
            checkpoints=tuple([c for c in await self._checkpoints(events) if c is not None]),
            estimated_finish=estimated_finish(events),
            num_checkpoints_kept=self.job.hyperparameters["save_total_limit"],
        )
        recorded = await self._waiting.persist(
            self._workshop.store.progress.record,
            self._workshop.supervisor_id,
            self.job.id,
            self._recorded_seq,
            report,
        )
        if recorded:
            self._recorded_seq = last_seq
            self._fold.recorded(last_seq)
        else:
            await self._look()

    async def _look(self) -> None:
        """The job has changed under us: how?"""
        statuses = await self._workshop.patience.insist(
            self._workshop.store.progress.statuses, self._workshop.supervisor_id
        )
        self.status = statuses.get(self.job.id)

    async def _checkpoints(
        self, events: Sequence[TrainEvent]
    ) -> list[tuple[NewCheckpoint, Model] | None]:
        found: list[tuple[NewCheckpoint, Model] | None] = []
        for event in events:
            if isinstance(event, Step):
                self._last_step = event
            elif isinstance(event, CheckpointSaved):
                found.append(await self._checkpoint(event))
        return found

    async def _checkpoint(self, event: CheckpointSaved) -> tuple[NewCheckpoint, Model] | None:
        """None if the trainer has dropped it again by now, for newer ones."""
        try:
            path = await self._install(event.path)
        except FileNotFoundError:
            return None
        name = f"{self.job.plan.reserved_model}:ckpt-step-{event.step}"
        step = self._last_step
        metrics = checkpoint_metrics(event, step if step and step.step == event.step else None)
        model = await self._model(name, ModelKind.CHECKPOINT, path)
        return NewCheckpoint(event.step, name, str(path), metrics, int(event.at)), model

    async def _model(self, name: str, kind: ModelKind, path: Path) -> Model:
        uid = None
        if makes_adapter(self.job):
            uid = await self._waiting.persist(self._workshop.store.models.next_adapter_uid)
        return resulting_model(self.job, name, kind, path, self._owned_by, uid)

    async def _publish(self, path: Path, trained_tokens: int) -> None:
        """First an engine serves the model, then everyone sees it. A job that is cancelled or
        paused meanwhile waits for no engine."""
        name = self.job.plan.reserved_model
        kind = ModelKind.ADAPTER if makes_adapter(self.job) else ModelKind.FULL
        model = await self._model(name, kind, path)
        await self._warn_of_engine()
        serving = asyncio.create_task(self._serve(model))
        try:
            while not serving.done() and self.status is JobStatus.RUNNING:
                await asyncio.wait([serving], timeout=STATUS_INTERVAL_S)
            if serving.done():
                await serving
                await self._succeed(model, trained_tokens)
        finally:
            serving.cancel()
            await asyncio.wait([serving])
            self._workshop.engines.abandon(model.id)

    async def _warn_of_engine(self) -> None:
        """Says what is waited for, where no engine can serve the result at present."""
        if self._outlook is None or not await self._outlook.is_failing():
            return
        message = (
            f"Training is complete, but the engine of '{self.job.plan.base}' does not start; it is "
            f"waited for, {SERVING_LIMIT_S / 60:.0f} minutes at most"
        )
        report = Report(
            last_seq=self._recorded_seq,
            events=(NewEvent(message, EventLevel.WARN),),
            num_checkpoints_kept=self.job.hyperparameters["save_total_limit"],
        )
        await self._workshop.store.progress.record(
            self._workshop.supervisor_id, self.job.id, self._recorded_seq, report
        )

    async def _serve(self, model: Model) -> None:
        engines = self._workshop.engines
        try:
            if model.adapter_uid is None:
                await engines.serve_fine_tune(model, SERVING_LIMIT_S)
            else:
                adapter = AdapterRef(model.adapter_name, model.adapter_uid, model.path)
                await engines.load_adapter(model.engine_model, adapter, SERVING_LIMIT_S)
        except TimeoutError:
            message = "Training is complete, but no engine could serve the model in time."
            if self._outlook is not None and await self._outlook.is_failing():
                message = f"{message} {self._outlook.advice}"
            raise JobFailedError(JobError("internal_error", message)) from None
        except EngineRefusalError as refusal:
            message = f"Training is complete, but the engine cannot serve the model: {refusal}"
            raise JobFailedError(JobError("internal_error", message)) from refusal

    async def _succeed(self, model: Model, trained_tokens: int) -> None:
        result_files = await self._waiting.persist(self._files.write_results)
        outcome = Outcome(
            model=model,
            result_files=result_files,
            trained_tokens=trained_tokens,
            events=(
                NewEvent(f"New fine-tuned model created: {model.id}"),
                NewEvent("The job has successfully completed"),
            ),
        )
        succeeded = await self._workshop.patience.insist(
            self._workshop.store.progress.succeed,
            self._workshop.supervisor_id,
            self.job.id,
            outcome,
        )
        if not succeeded:
            for file in result_files:
                await self._workshop.blobs.delete(file.blob)
            await self._look()
            return
        self.status = JobStatus.SUCCEEDED
        await self._files.remove()

    async def _fail(self, error: JobError) -> None:
        event = NewEvent(error.message, EventLevel.ERROR)
        failed = await self._workshop.patience.insist(
            self._workshop.store.progress.fail,
            self._workshop.supervisor_id,
            self.job.id,
            error,
            [event],
        )
        if failed:
            self.status = JobStatus.FAILED
            await self._files.remove()
        else:
            await self._look()
