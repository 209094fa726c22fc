"""Fine-tuning jobs as the API acts on them."""

from __future__ import annotations

from server.auth import Principal
from server.errors import InvalidRequest, NotFound
from server.fine_tuning.creation import JobFactory
from server.fine_tuning.schemas import CreateJob, JobObject
from server.idempotency import IdempotentCall
from server.store import Store
from server.store.records import Job, JobStatus, NewEvent, Project

ROUTE = "fine_tuning.jobs"


class JobService:
    def __init__(self, store: Store, factory: JobFactory) -> None:
        self._store = store
        self._factory = factory

    async def create(
        self, caller: Principal, request: CreateJob, call: IdempotentCall | None
    ) -> bytes:
        """The JSON of the new job, or of the one an earlier identical request made. Raises
        ApiError."""
        if call is not None and (answer := await call.earlier_answer(self._store)) is not None:
            return answer
        configured = self._factory.read(request)
        caller.check_model(configured.request.model)
        project = caller.project
        job = await self._factory.make(project, configured)
        answer = JobObject.of(job, project.slug).model_dump_json().encode()
        created = NewEvent(f"Created fine-tuning job: {job.id}")
        try:
            replay = call and call.keeping(answer)
            earlier = await self._store.jobs.create(
                job, created, replay, configured.told(), caller.actor
            )
        except BaseException:
            await self._factory.unpin(job)
            raise
        if call is None or earlier is None:
            return answer
        await self._factory.unpin(job)
        return call.answer_of(earlier)

    async def find(self, project: Project, job_id: str) -> Job:
        """Raises NotFound."""
        job = await self._store.jobs.find(project.id, job_id)
        if job is None:
            raise no_such_job(job_id)
        return job

    async def cancel(self, project: Project, job_id: str) -> Job:
        """Raises NotFound, InvalidRequest. A repeat changes nothing."""
        event = NewEvent("Fine-tuning job cancelled")
        changed = await self._store.jobs.cancel(project.id, job_id, event)
        job = await self._after(project, job_id, changed, "cancel", {JobStatus.CANCELLED})
        await self._factory.unpin(job)
        return job

    async def pause(self, project: Project, job_id: str) -> Job:
        """Raises NotFound, InvalidRequest. A repeat changes nothing."""
        event = NewEvent("Fine-tuning job paused")
        changed = await self._store.jobs.pause(project.id, job_id, event)
        return await self._after(project, job_id, changed, "pause", {JobStatus.PAUSED})

    async def resume(self, project: Project, job_id: str) -> Job:
        """Raises NotFound, InvalidRequest. A repeat changes nothing."""
        event = NewEvent("Fine-tuning job resumed, moving job to queued state")
        changed = await self._store.jobs.resume(project.id, job_id, event)
        return await self._after(project, job_id, changed, "resume", {JobStatus.QUEUED})

    async def _after(
        self, project: Project, job_id: str, changed: bool, verb: str, done: set[JobStatus]
    ) -> Job:
        job = await self.find(project, job_id)
        if not changed and job.status not in done:
            raise InvalidRequest(
                f"Cannot {verb} fine-tuning job {job_id}: its status is '{job.status}'.",
                param="fine_tuning_job_id",
                code="invalid_job_status",
            )
        return job


def no_such_job(job_id: str) -> NotFound:
    return NotFound(
        f"Could not find fine tune: {job_id}", param="fine_tune_id", code="fine_tune_not_found"
    )
