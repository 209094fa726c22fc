from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from server.store import Store
from server.store.job_states import TRANSITIONS, JobAction
from server.store.progress import Outcome, Report
from server.store.records import (
    EventLevel,
    Job,
    JobError,
    JobStatus,
    ModelKind,
    NewCheckpoint,
    NewEvent,
)
from tests.jobs.factories import (
    CREATED,
    INTERRUPTED,
    STARTED,
    make_job,
    make_project,
    make_queued,
    new_file,
    new_model,
)

NOTE = NewEvent("note")


def outcome_of(job: Job) -> Outcome:
    name = job.plan.reserved_model
    return Outcome(
        model=new_model(job, name, 7),
        result_files=(new_file(job.project_id), new_file(job.project_id)),
        trained_tokens=12,
        events=(NewEvent("one"), NewEvent("two")),
    )


async def reach(store: Store, status: JobStatus) -> Job:
    """A job in `status`, owned by `me` where somebody works on it."""
    project = await make_project(store)
    job = await make_job(store, project)
    claimed = await store.progress.claim_validation("me", 60)
    assert claimed is not None
    if status is JobStatus.VALIDATING_FILES:
        return job
    assert await store.progress.accept("me", job.id, {}, [])
    if status is JobStatus.QUEUED:
        return job
    assert await store.progress.claim_training("me", 60, STARTED, INTERRUPTED)
    if status is JobStatus.PAUSED:
        assert await store.jobs.pause(project.id, job.id, NOTE)
    elif status is JobStatus.SUCCEEDED:
        assert await store.progress.succeed("me", job.id, outcome_of(job))
    elif status is JobStatus.FAILED:
        assert await store.progress.fail("me", job.id, JobError("c", "m"), [])
    elif status is JobStatus.CANCELLED:
        assert await store.jobs.cancel(project.id, job.id, NOTE)
    return job


async def status_of(store: Store, job: Job) -> JobStatus:
    found = await store.jobs.find(job.project_id, job.id)
    assert found is not None
    return found.status


async def perform(store: Store, action: JobAction, job: Job) -> bool:
    progress, jobs, project = store.progress, store.jobs, job.project_id
    performers: dict[JobAction, Callable[[], Awaitable[bool]]] = {
        JobAction.ACCEPT: lambda: progress.accept("me", job.id, {}, [NOTE]),
        JobAction.PAUSE: lambda: jobs.pause(project, job.id, NOTE),
        JobAction.RESUME: lambda: jobs.resume(project, job.id, NOTE),
        JobAction.SUCCEED: lambda: progress.succeed("me", job.id, outcome_of(job)),
        JobAction.FAIL: lambda: progress.fail("me", job.id, JobError("c", "m"), [NOTE]),
        JobAction.CANCEL: lambda: jobs.cancel(project, job.id, NOTE),
    }
    return await performers[action]()


@pytest.mark.parametrize("status", list(JobStatus))
@pytest.mark.parametrize("action", [a for a in JobAction if a is not JobAction.START])
async def test_an_action_happens_exactly_from_the_states_of_the_table(
    store: Store, status: JobStatus, action: JobAction
) -> None:
    job = await reach(store, status)
    # Failing a queued job needs an owner, which a queued job has only within a claim.
    allowed = status in TRANSITIONS[action].sources and not (
        action is JobAction.FAIL and status is JobStatus.QUEUED
    )
    before = await store.jobs.events_page(job.id, after=None, limit=100)
    assert await perform(store, action, job) == allowed
    expected = TRANSITIONS[action].target if allowed else status
    assert await status_of(store, job) is expected
    after = await store.jobs.events_page(job.id, after=None, limit=100)
    assert (len(after.items) > len(before.items)) == allowed


def test_terminal_states_are_never_left() -> None:
    for rule in TRANSITIONS.values():
        assert not any(source.is_terminal for source in rule.sources)


async def test_success_shows_state_events_model_and_file_together(store: Store) -> None:
    job = await reach(store, JobStatus.RUNNING)
    outcome = outcome_of(job)
    assert await store.models.find(outcome.model.id, job.project_id) is None
    assert await store.progress.succeed("me", job.id, outcome)
    found = await store.jobs.find(job.project_id, job.id)
    assert found is not None
    assert found.fine_tuned_model == outcome.model.id
    assert found.trained_tokens == 12
    assert found.finished_at is not None
    assert await store.models.find(outcome.model.id, job.project_id) == outcome.model
    for file_id, file in zip(found.result_files, outcome.result_files, strict=True):
        assert await store.files.find(job.project_id, file_id) == file
    events = await store.jobs.events_page(job.id, after=None, limit=2)
    assert [e.message for e in events.items] == ["two", "one"]
    assert events.has_more


async def test_a_cancelled_job_takes_in_nothing_more(store: Store) -> None:
    job = await reach(store, JobStatus.CANCELLED)
    assert not await store.progress.record("me", job.id, 0, Report(1, (NOTE,)))
    assert not await store.progress.succeed("me", job.id, outcome_of(job))
    assert await store.models.find(job.plan.reserved_model, job.project_id) is None


async def test_trainer_events_are_recorded_once_even_if_two_try(store: Store) -> None:
    job = await reach(store, JobStatus.RUNNING)
    metrics = NewEvent("Step 1", data={"step": 1})
    model = new_model(job, f"{job.plan.reserved_model}:ckpt-step-1", 3, ModelKind.CHECKPOINT)
    checkpoint = NewCheckpoint(1, model.id, "/c", {"step": 1}, int(time.time()))
    report = Report(5, (metrics,), ((checkpoint, model),), estimated_finish=99)
    recorded = await asyncio.gather(
        *(store.progress.record("me", job.id, 0, report) for _ in range(4))
    )
    assert sorted(recorded) == [False, False, False, True]
    assert await store.progress.record("me", job.id, 5, Report(6, (), report.checkpoints))
    assert not await store.progress.record("other", job.id, 6, Report(7, (metrics,)))
    events = await store.jobs.events_page(job.id, after=None, limit=100)
    assert [e.data for e in events.items if e.data] == [{"step": 1}]
    checkpoints = await store.jobs.checkpoints_page(job.id, after=None, limit=10)
    assert [c.step for c in checkpoints.items] == [1]
    assert await store.models.find(model.id, job.project_id) == model
    found = await store.jobs.find(job.project_id, job.id)
    assert found is not None
    assert (found.train_seq, found.estimated_finish) == (6, 99)


async def test_of_many_supervisors_each_job_is_claimed_by_one(store: Store) -> None:
    project = await make_project(store)
    queued = [await make_queued(store, project) for _ in range(6)]
    claims = await asyncio.gather(
        *(store.progress.claim_training(f"s{n}", 60, STARTED, INTERRUPTED) for n in range(10))
    )
    claimed = [job.id for job in claims if job is not None]
    assert sorted(claimed) == sorted(job.id for job in queued)


async def test_projects_with_waiting_jobs_take_turns(store: Store) -> None:
    many, few = await make_project(store), await make_project(store)
    crowd = [await make_job(store, many) for _ in range(5)]
    pair = [await make_job(store, few) for _ in range(2)]
    fair = [crowd[0], pair[0], crowd[1], pair[1], crowd[2], crowd[3], crowd[4]]
    checked: list[str] = []
    while (job := await store.progress.claim_validation("validator", 60)) is not None:
        checked.append(job.id)
        assert await store.progress.accept("validator", job.id, {"n_epochs": 3}, [])
    assert checked == [job.id for job in fair]
    trained: list[str] = []
    while (job := await store.progress.claim_training("me", 60, STARTED, INTERRUPTED)) is not None:
        trained.append(job.id)
    assert trained == checked


async def test_an_interrupted_job_goes_on_before_another_projects_first(store: Store) -> None:
    first, other = await make_project(store), await make_project(store)
    interrupted = await make_queued(store, first)
    assert await store.progress.claim_training("dead", -1, STARTED, INTERRUPTED) is not None
    waiting = await make_queued(store, other)
    for expected in (interrupted, waiting):
        job = await store.progress.claim_training("me", 60, STARTED, INTERRUPTED)
        assert job is not None
        assert job.id == expected.id


async def test_jobs_are_claimed_oldest_first_also_after_a_resume(store: Store) -> None:
    project = await make_project(store)
    first, second = await make_queued(store, project), await make_queued(store, project)
    job = await store.progress.claim_training("me", 60, STARTED, INTERRUPTED)
    assert job is not None
    assert job.id == first.id
    assert await store.jobs.pause(project.id, first.id, NOTE)
    assert await store.jobs.resume(project.id, first.id, NOTE)
    # Its trainer is still leaving, so the next in line is taken meanwhile.
    job = await store.progress.claim_training("other", 60, STARTED, INTERRUPTED)
    assert job is not None
    assert job.id == second.id
    await store.progress.release("me", first.id)
    job = await store.progress.claim_training("third", 60, STARTED, INTERRUPTED)
    assert job is not None
    assert job.id == first.id


async def test_a_supervisor_that_slept_does_not_claim_its_own_job(store: Store) -> None:
    await make_queued(store, await make_project(store))
    assert await store.progress.claim_training("me", -1, STARTED, INTERRUPTED) is not None
    assert await store.progress.claim_training("me", 60, STARTED, INTERRUPTED) is None
    assert await store.progress.claim_training("other", 60, STARTED, INTERRUPTED) is not None


async def test_a_job_whose_supervisor_died_is_taken_over_and_the_dead_one_shut_out(
    store: Store,
) -> None:
    job = await reach(store, JobStatus.RUNNING)
    assert await store.progress.claim_training("heir", 60, STARTED, INTERRUPTED) is None
    assert set(await store.progress.renew("me", -1)) == {job.id}
    heir = await store.progress.claim_training("heir", 60, STARTED, INTERRUPTED)
    assert heir is not None
    assert (heir.id, heir.status) == (job.id, JobStatus.RUNNING)
    assert await store.progress.renew("me", 60) == {}
    assert not await store.progress.record("me", job.id, 0, Report(1, (NOTE,)))
    assert await store.progress.count_death("me", job.id) is None
    assert await store.progress.count_death("heir", job.id) == 1
    assert not await store.progress.fail("me", job.id, JobError("c", "m"), [])
    assert await store.progress.succeed("heir", job.id, outcome_of(job))
    events = await store.jobs.events_page(job.id, after=None, limit=100)
    assert [e.message for e in reversed(events.items)] == [
        CREATED.message,
        STARTED.message,
        INTERRUPTED.message,
        "one",
        "two",
    ]
    assert {e.level for e in events.items} == {EventLevel.INFO}
