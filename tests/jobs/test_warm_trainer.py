"""A trainer that waits for its job is a trainer like any other."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from tests.jobs.conftest import settings_for
from tests.jobs.live import (
    Service,
    running_gateway,
    running_supervisor,
    trainers_in,
    wait_until,
    warm_trainers_of,
)
from tests.jobs.stories import create, wait_for


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_the_spare_takes_the_next_job_and_another_follows(service: Service) -> None:
    client = service.gateway.client(strict=False)
    supervisor = service.supervisor.pid
    wait_until(lambda: warm_trainers_of(supervisor))
    (spare,) = warm_trainers_of(supervisor)
    job = create(client, hyperparameters={"n_epochs": 50, "batch_size": 1})
    wait_until(lambda: trainers_in(service.gateway.data))
    assert trainers_in(service.gateway.data) == [spare]
    wait_until(lambda: len(warm_trainers_of(supervisor)) == 2)
    wait_until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "running")
    log = service.gateway.data / "jobs" / job.id / "trainer.log"
    wait_until(lambda: log.resolve() in _files_of(spare))
    assert log.with_name("lock").resolve() in _files_of(spare)
    client.fine_tuning.jobs.cancel(job.id)
    wait_until(lambda: not living([spare]))


def _files_of(process: psutil.Process) -> set[Path]:
    return {Path(file.path) for file in process.open_files()}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_idle_spare_leaves_with_its_supervisor(
    tmp_path: Path, tiny_model: Path, number: signal.Signals
) -> None:
    with running_gateway(tmp_path, settings_for(tiny_model)), running_supervisor(tmp_path) as it:
        wait_until(lambda: warm_trainers_of(it.pid))
        spares = warm_trainers_of(it.pid)
        it.send_signal(number)
        wait_until(lambda: not living(spares))


def test_a_job_does_without_a_spare(tmp_path: Path, tiny_model: Path) -> None:
    settings = settings_for(tiny_model, warm_trainers=0)
    with running_gateway(tmp_path, settings) as gateway, running_supervisor(tmp_path) as it:
        client = gateway.client(strict=False)
        assert wait_for(client, create(client).id).status == "succeeded"
        assert warm_trainers_of(it.pid) == []
