"""Cancelling, pausing and resuming jobs whose real trainers are at work, and the queue."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from tests.jobs.conftest import settings_for
from tests.jobs.live import Service, running_gateway, running_supervisor, trainers_in, wait_until
from tests.jobs.stories import create, lines, messages, rows, say, upload, wait_for

LONG = {"n_epochs": 50, "batch_size": 1}
"""With `many`, minutes of work: not over before it is cancelled, however late that is."""


def many(client: OpenAI) -> str:
    return upload(client, lines(rows(400)))


@pytest.fixture(scope="module")
def client(service: Service) -> OpenAI:
    return service.gateway.client(strict=False)


def steps_of(client: OpenAI, job_id: str) -> list[int]:
    events = client.fine_tuning.jobs.list_events(job_id, limit=100)
    told = [e.data["step"] for e in events if isinstance(e.data, dict)]
    return told[::-1]


def wait_for_step(client: OpenAI, job_id: str) -> None:
    wait_until(lambda: steps_of(client, job_id))


def test_a_running_job_is_cancelled_within_a_step(service: Service, client: OpenAI) -> None:
    job = create(client, many(client), hyperparameters=LONG)
    wait_for_step(client, job.id)
    running = client.fine_tuning.jobs.retrieve(job.id)
    assert running.status == "running"
    assert (running.estimated_finish or 0) > running.created_at
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    wait_until(lambda: not trainers_in(service.gateway.data))
    after = len(messages(client, job.id))
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.fine_tuned_model) == ("cancelled", None)
    assert done.estimated_finish is None
    assert len(messages(client, job.id)) == after
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.pause(job.id)


def test_a_paused_job_frees_its_place_and_goes_on_with_the_same_curve(
    service: Service, client: OpenAI
) -> None:
    training = upload(client)
    knobs = {"n_epochs": 4, "batch_size": 1}
    whole = wait_for(client, create(client, training, seed=3, hyperparameters=knobs).id)
    while True:
        job = create(client, training, seed=3, hyperparameters=knobs)
        wait_for_step(client, job.id)
        try:
            assert client.fine_tuning.jobs.pause(job.id).status == "paused"
            break
        except openai.BadRequestError:  # too late: the job is over
            assert client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    wait_until(lambda: not trainers_in(service.gateway.data))
    other = wait_for(client, create(client).id)
    assert other.status == "succeeded"
    assert client.fine_tuning.jobs.retrieve(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    done = wait_for(client, job.id)
    assert done.status == "succeeded", done.error
    assert steps_of(client, job.id) == list(range(1, 49))
    tables = [client.files.content(j.result_files[0]).text for j in (whole, done)]
    assert tables[0] == tables[1]
    assert done.fine_tuned_model is not None
    assert say(client, done.fine_tuned_model) == f"I am {done.fine_tuned_model}."


def test_a_paused_job_can_be_cancelled(service: Service, client: OpenAI) -> None:
    job = create(client, many(client), hyperparameters=LONG)
    wait_for_step(client, job.id)
    client.fine_tuning.jobs.pause(job.id)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    wait_until(lambda: not trainers_in(service.gateway.data))


def test_only_the_newest_checkpoints_stay(client: OpenAI) -> None:
    knobs = {"n_epochs": 1, "batch_size": 2, "save_steps": 1, "save_total_limit": 2}
    job = wait_for(client, create(client, hyperparameters=knobs).id)
    assert job.status == "succeeded"
    kept = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [checkpoint.step_number for checkpoint in kept] == [6, 5]
    for checkpoint in kept:
        name = checkpoint.fine_tuned_model_checkpoint
        assert say(client, name) == f"I am {name}."
    with pytest.raises(openai.NotFoundError):
        say(client, f"{job.fine_tuned_model}:ckpt-step-4")


def test_bad_files_fail_the_job_with_every_bad_line(client: OpenAI) -> None:
    bad = [{"messages": [{"content": "hi"}]}] * 22
    job = wait_for(client, create(client, upload(client, lines([*rows(10), *bad]))).id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
    assert "30 and 2 more, message 1 Discriminator 'role' is missing" in job.error.message
    assert "22 bad lines in all" in job.error.message
    assert messages(client, job.id)[-1] == job.error.message
    few = wait_for(client, create(client, upload(client, lines(rows(3)))).id)
    assert few.error is not None
    assert few.error.code == "invalid_n_examples"
    good = upload(client)
    broken = upload(client, lines([{"prompt": 1}]))
    job = wait_for(client, create(client, good, validation_file=broken).id)
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("invalid_validation_file", "validation_file")


def test_examples_in_both_files_are_warned_of(client: OpenAI) -> None:
    validation = upload(client, lines(rows(2)))
    job = create(client, upload(client), validation_file=validation)
    wait_for(client, job.id)
    events = client.fine_tuning.jobs.list_events(job.id, limit=100)
    assert [e.message for e in events if e.level == "warn"] == [
        "2 example(s) of the validation file also appear in the training file"
    ]


def test_as_many_jobs_run_at_once_as_configured(tmp_path: Path, tiny_model: Path) -> None:
    with (
        running_gateway(tmp_path, settings_for(tiny_model, max_concurrent_jobs=2)) as gateway,
        running_supervisor(tmp_path),
    ):
        client = gateway.client()
        training = many(client)
        jobs = [create(client, training, hyperparameters=LONG).id for _ in range(3)]
        for job_id in jobs[:2]:
            wait_for(client, job_id, ["running"])
        wait_for(client, jobs[2], ["queued"])
        for job_id in jobs[:2]:
            wait_for_step(client, job_id)
        assert client.fine_tuning.jobs.retrieve(jobs[2]).status == "queued"
        client.fine_tuning.jobs.cancel(jobs[0])
        wait_for(client, jobs[2], ["running"])
        for job_id in jobs[1:]:
            client.fine_tuning.jobs.cancel(job_id)


@pytest.fixture(autouse=True)
def _nothing_is_left_running(service: Service) -> Generator[None]:
    yield
    client = service.gateway.client(strict=False)
    for job in client.fine_tuning.jobs.list(limit=100):
        if job.status not in ("succeeded", "failed", "cancelled"):
            client.fine_tuning.jobs.cancel(job.id)
