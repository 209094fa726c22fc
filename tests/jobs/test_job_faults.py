"""kill -9 of every process at every state of a job: nothing acknowledged is lost, and the job ends
as it would have."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import httpx
import openai
import psutil
import pytest
from openai import OpenAI

from server.supervisor import job_waiting
from server.supervisor.supervisor import LEASE_S
from tests.faults.disks import small_disk
from tests.faults.test_locked_store import write_lock
from tests.jobs.conftest import settings_for
from tests.jobs.live import (
    Gateway,
    Service,
    engines_of,
    running_gateway,
    running_supervisor,
    trainers_in,
    wait_until,
)
from tests.jobs.stories import create, lines, messages, rows, say, upload, wait_for
from workers.trainer import room

KNOBS = {"n_epochs": 4, "batch_size": 1}
NUM_STEPS = 48
INTERRUPTED = "Fine-tuning job was interrupted and goes on from its last saved state"


@pytest.fixture(scope="module")
def table(service: Service) -> str:
    """The result file of the job that every test here runs, when nothing happens to it."""
    client = service.gateway.client()
    return check_success(client, start(client))


def start(client: OpenAI) -> str:
    return create(client, upload(client), seed=3, hyperparameters=KNOBS).id


def check_success(
    client: OpenAI, job_id: str, expected: str | None = None, num_starts: int = 1
) -> str:
    done = wait_for(client, job_id)
    assert done.status == "succeeded", (done.error, messages(client, job_id))
    told = messages(client, job_id)
    steps = [int(m.split()[1].split("/")[0]) for m in told if m.startswith("Step ")]
    assert steps == list(range(1, NUM_STEPS + 1))
    assert told.count("Fine-tuning job started") == num_starts
    for message in ("Created fine-tuning job", "Files validated", "New fine-tuned model"):
        assert len([m for m in told if m.startswith(message)]) == 1
    assert told[-1] == "The job has successfully completed"
    assert done.fine_tuned_model is not None
    assert say(client, done.fine_tuned_model) == f"I am {done.fine_tuned_model}."
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job_id))
    assert [c.step_number for c in checkpoints] == [48, 36, 24]
    content = client.files.content(done.result_files[0]).text
    assert expected is None or content == expected
    return content


def num_steps_told(client: OpenAI, job_id: str) -> int:
    return len([m for m in messages(client, job_id) if m.startswith("Step ")])


def num_steps_done(stack: Stack, job_id: str) -> int:
    """Whether told or not."""
    events = stack.data / "jobs" / job_id / "events.ndjson"
    return events.read_text().count('"type":"step"') if events.is_file() else 0


def wait_for_steps(client: OpenAI, job_id: str, count: int) -> None:
    wait_until(lambda: num_steps_told(client, job_id) >= count, interval_s=0.05)


def paused(client: OpenAI, count: int) -> str:
    """A job that was paused at work: one that was over before is followed by another."""
    while True:
        job_id = start(client)
        wait_for_steps(client, job_id, count)
        try:
            client.fine_tuning.jobs.pause(job_id)
            return job_id
        except openai.BadRequestError:
            assert client.fine_tuning.jobs.retrieve(job_id).status == "succeeded"


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


class Stack:
    """A service whose processes a test may kill and start again."""

    def __init__(self, folder: Path, model: Path, exits: ExitStack, **training: object) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._settings = settings_for(model, **training)
        self._exits = exits
        self.gateway = self.start_gateway()
        self.client = self.gateway.client(strict=False)

    def start_gateway(self) -> Gateway:
        self.gateway = self._exits.enter_context(running_gateway(self.folder, self._settings))
        self.client = self.gateway.client(strict=False)
        return self.gateway

    def start_supervisor(self) -> int:
        return self._exits.enter_context(running_supervisor(self.folder)).pid


@pytest.fixture
def stack(tmp_path: Path, tiny_model: Path) -> Generator[Stack]:
    with ExitStack() as exits:
        yield Stack(tmp_path, tiny_model, exits)
    wait_until(lambda: not trainers_in(tmp_path / "data"))


def test_a_job_made_while_no_supervisor_runs_waits_for_one(stack: Stack, table: str) -> None:
    job_id = start(stack.client)
    kill(stack.gateway.process.pid)
    stack.start_gateway()
    assert stack.client.fine_tuning.jobs.retrieve(job_id).status == "validating_files"
    stack.start_supervisor()
    check_success(stack.client, job_id, table)


@pytest.mark.parametrize("status", ["validating_files", "queued", "running"])
def test_a_supervisor_killed_at_any_state_is_followed_by_another(
    stack: Stack, table: str, status: str
) -> None:
    pid = stack.start_supervisor()
    job_id = start(stack.client)
    wait_for(stack.client, job_id, [status, "running"])
    if status == "running":
        wait_for_steps(stack.client, job_id, 20)
    kill(pid)
    was_at_work = num_steps_done(stack, job_id) < NUM_STEPS - 4
    stack.start_supervisor()
    check_success(stack.client, job_id, table)
    if status == "running" and was_at_work:
        assert messages(stack.client, job_id).count(INTERRUPTED) == 1


def test_a_paused_job_outlives_its_supervisor(stack: Stack, table: str) -> None:
    pid = stack.start_supervisor()
    job_id = paused(stack.client, 5)
    kill(pid)
    wait_until(lambda: not trainers_in(stack.data))
    stack.start_supervisor()
    assert stack.client.fine_tuning.jobs.resume(job_id).status == "queued"
    check_success(stack.client, job_id, table, num_starts=2)


def test_a_supervisor_that_is_asked_to_leave_hands_its_job_over(stack: Stack, table: str) -> None:
    pid = stack.start_supervisor()
    job_id = start(stack.client)
    wait_for_steps(stack.client, job_id, 5)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not trainers_in(stack.data))
    stack.start_supervisor()
    check_success(stack.client, job_id, table)


def _at_step(count: int) -> Callable[[Stack, str], None]:
    return lambda stack, job_id: wait_for_steps(stack.client, job_id, count)


def _in_a_checkpoint_write(stack: Stack, job_id: str) -> None:
    folder = stack.gateway.data / "jobs" / job_id
    wait_until(lambda: any(folder.rglob("*.partial*")), interval_s=0.0005)


@pytest.mark.parametrize(
    "moment", [_at_step(1), _at_step(30), _in_a_checkpoint_write], ids=["first", "late", "saving"]
)
def test_a_killed_trainer_is_started_again(
    stack: Stack, table: str, moment: Callable[[Stack, str], None]
) -> None:
    stack.start_supervisor()
    job_id = start(stack.client)
    moment(stack, job_id)
    for process in trainers_in(stack.data):
        process.kill()
    check_success(stack.client, job_id, table)


def test_a_trainer_that_keeps_dying_fails_its_job(tmp_path: Path, tiny_model: Path) -> None:
    with ExitStack() as exits:
        stack = Stack(tmp_path, tiny_model, exits, max_restarts=1)
        stack.start_supervisor()
        job_id = start(stack.client)
        stop = threading.Event()

        def keep_killing() -> None:
            while not stop.wait(0.2):
                for process in trainers_in(tmp_path / "data"):
                    process.kill()

        killer = threading.Thread(target=keep_killing)
        killer.start()
        try:
            failed = wait_for(stack.client, job_id)
        finally:
            stop.set()
            killer.join()
        assert failed.status == "failed"
        assert failed.error is not None
        assert failed.error.code == "internal_error"
        assert "unexpectedly 2 times" in failed.error.message


def test_a_gateway_killed_while_a_job_runs_loses_nothing(stack: Stack, table: str) -> None:
    stack.start_supervisor()
    job_id = start(stack.client)
    wait_for_steps(stack.client, job_id, 3)
    kill(stack.gateway.process.pid)
    stack.start_gateway()
    check_success(stack.client, job_id, table)


def test_a_killed_engine_comes_back_and_serves_fine_tunes_again(stack: Stack, table: str) -> None:
    pid = stack.start_supervisor()
    job_id = start(stack.client)
    check_success(stack.client, job_id, table)
    model = stack.client.fine_tuning.jobs.retrieve(job_id).fine_tuned_model
    assert model is not None
    engines = engines_of(pid)
    assert engines
    for engine in engines:
        engine.kill()

    def answers() -> bool:
        try:
            return say(stack.client, model) == f"I am {model}."
        except Exception:
            return False

    wait_until(answers)


def test_of_two_supervisors_one_works_and_the_other_takes_over(stack: Stack, table: str) -> None:
    working = stack.start_supervisor()
    wait_until(lambda: engines_of(working))
    standing_by = stack.start_supervisor()
    job_id = start(stack.client)
    wait_for_steps(stack.client, job_id, 5)
    assert len(engines_of(working)) == 1
    assert psutil.Process(standing_by).children() == []
    kill(working)
    check_success(stack.client, job_id, table)
    assert len(engines_of(standing_by)) == 1


def test_a_store_that_is_locked_for_longer_than_a_lease_costs_a_job_nothing(
    stack: Stack, table: str
) -> None:
    supervisor = stack.start_supervisor()
    job_id = start(stack.client)
    wait_for_steps(stack.client, job_id, 3)
    with write_lock(stack.data / "tuneyard.db"):
        time.sleep(LEASE_S + 2)
    check_success(stack.client, job_id, table)
    assert INTERRUPTED not in messages(stack.client, job_id)
    assert psutil.pid_exists(supervisor)


def test_on_a_full_disk_chat_and_deletes_go_on_and_a_job_waits(
    tmp_path: Path, tiny_model: Path, table: str
) -> None:
    """The whole data directory, logs and all, is on a disk of its own."""
    with small_disk(tmp_path / "disk", 128 * 1024 * 1024) as disk, ExitStack() as exits:
        stack = Stack(disk.folder, tiny_model, exits)
        supervisor = stack.start_supervisor()
        client = stack.client
        wait_until(lambda: engines_of(supervisor))
        engines = engines_of(supervisor)
        spare = upload(client)
        job_id = start(client)
        wait_for_steps(client, job_id, 3)
        disk.fill()
        with pytest.raises(openai.InternalServerError) as refused:
            upload(client, lines(rows(200)))
        assert refused.value.status_code == 507
        assert say(client, "tiny") == "I am base."
        assert client.files.delete(spare).deleted
        waits = (job_waiting.WAITS, room.WAITS)
        wait_until(lambda: any(message in waits for message in messages(client, job_id)))
        assert client.fine_tuning.jobs.retrieve(job_id).status == "running"
        for _ in range(20):
            assert say(client, "tiny") == "I am base."
        assert engines_of(supervisor) == engines
        ready = httpx.get(f"{stack.gateway.url}/readyz").json()
        assert ready["warnings"] == ["The disk of the data directory is full."]
        disk.make_room()
        check_success(client, job_id, table)
        upload(client)
        assert not list(disk.folder.rglob("*.partial"))
