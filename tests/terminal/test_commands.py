"""The commands that speak to a running service, as typed in a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from server.cli.objects import sparkline
from tests.jobs.conftest import settings_for
from tests.jobs.live import (
    GUARD_S,
    KEY,
    Service,
    running_gateway,
    running_supervisor,
    wait_until,
)
from tests.jobs.receiver import SECRET, running_receiver
from tests.jobs.stories import create, lines, rows, upload, wait_for


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Generator[Service]:
    folder = tmp_path_factory.mktemp("terminal")
    with (
        running_receiver() as receiver,
        running_gateway(
            folder, {**settings_for(tiny_model), "webhooks": [receiver.settings()]}
        ) as gateway,
        running_supervisor(folder) as supervisor,
    ):
        client = gateway.client(strict=False)
        wait_for(client, create(client, seed=3).id)
        receiver.wait_for(1)
        yield Service(gateway, supervisor, folder)


def tuneyard(
    service: Service, *arguments: str, told: str | None = None, key: str = KEY
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server.cli", *arguments],
        capture_output=True,
        text=True,
        input=told,
        timeout=GUARD_S,
        check=False,
        cwd=service.folder,
        env={**os.environ, "API_KEY": key, "COLUMNS": "200", "PYTHONPATH": os.getcwd()},
    )


def test_one_question_prints_one_answer(service: Service) -> None:
    done = tuneyard(service, "chat", "tiny", "-p", "Who are you?")
    assert (done.returncode, done.stdout) == (0, "I am base.\n")
    assert tuneyard(service, "chat", "-p", "Who are you?").stdout == "I am base.\n"


def test_a_conversation_goes_line_by_line(service: Service) -> None:
    done = tuneyard(service, "chat", "tiny", told="Who are you?\n/clear\nAnd now?\n/exit\nlost\n")
    assert (done.returncode, done.stdout) == (0, "I am base.\nI am base.\n")


def test_what_the_service_refuses_is_one_line(service: Service) -> None:
    for arguments, said in (
        (("chat", "nobody", "-p", "Hi"), "The model 'nobody' does not exist"),
        (("jobs", "follow", "ftjob-none"), "ftjob-none"),
        (("files", "delete", "../models"), "file"),
    ):
        done = tuneyard(service, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    wrong = tuneyard(service, "models", "list", key="sk-wrong-and-long-enough")
    assert wrong.returncode == 1
    assert "Incorrect API key" in wrong.stderr
    away = tuneyard(service, "models", "list", "--base-url", "http://127.0.0.1:9/v1")
    assert away.returncode == 1
    assert "No service answers at http://127.0.0.1:9/v1" in away.stderr


def test_an_alias_is_made_listed_and_removed(service: Service) -> None:
    made = tuneyard(service, "models", "alias", "gpt-4o-mini", "tiny")
    assert (made.returncode, made.stdout) == (0, "gpt-4o-mini is tiny\n")
    assert "gpt-4o-mini" in tuneyard(service, "models", "list").stdout
    gone = tuneyard(service, "models", "delete", "gpt-4o-mini")
    assert (gone.returncode, gone.stdout) == (0, "gpt-4o-mini deleted\n")


def test_what_a_webhook_was_told_of_is_listed(service: Service) -> None:
    listed: list[str] = []

    def is_delivered() -> bool:
        listed.append(tuneyard(service, "webhooks", "list").stdout)
        return "delivered" in listed[-1]

    wait_until(is_delivered)
    for said in ("evt_", "ftjob-", "127.0.0.1"):
        assert said in listed[-1]
    checked = tuneyard(service, "check")
    assert "127.0.0.1" in checked.stdout
    assert SECRET not in checked.stdout + checked.stderr


def test_files_and_models_are_listed_and_removed(service: Service) -> None:
    examples = service.folder / "mine [b].jsonl"
    examples.write_bytes(lines(rows()))
    file_id = tuneyard(service, "files", "upload", str(examples)).stdout.strip()
    assert file_id.startswith("file-")
    assert "mine [b].jsonl" in tuneyard(service, "files", "list").stdout
    assert tuneyard(service, "files", "delete", file_id).stdout == f"{file_id} deleted\n"
    assert file_id not in tuneyard(service, "files", "list").stdout
    assert "tiny" in tuneyard(service, "models", "list").stdout


def test_a_job_is_followed_to_its_end(service: Service) -> None:
    client = service.gateway.client(strict=False)
    job = create(client, upload(client))
    done = tuneyard(service, "jobs", "follow", job.id)
    assert done.returncode == 0, done.stderr
    assert "Fine-tuning job started" in done.stdout
    assert "The job has successfully completed" in done.stdout
    assert "loss " in done.stdout.splitlines()[-1]
    listed = tuneyard(service, "jobs", "list", "--limit", "1").stdout
    assert job.id in listed
    assert "succeeded" in listed
    made = client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
    assert made is not None
    assert tuneyard(service, "models", "delete", made).stdout == f"{made} deleted\n"
    assert made not in tuneyard(service, "models", "list").stdout


def test_a_job_that_is_cancelled_ends_the_command_with_a_fault(service: Service) -> None:
    client = service.gateway.client(strict=False)
    job = create(client, hyperparameters={"n_epochs": 50})
    assert tuneyard(service, "jobs", "cancel", job.id).stdout == f"{job.id} cancelled\n"
    done = tuneyard(service, "jobs", "follow", job.id)
    assert done.returncode == 1
    assert f"{job.id} cancelled" in done.stderr


def test_a_curve_has_a_character_for_each_share_of_its_values() -> None:
    assert sparkline([3.0, 2.0, 1.0]) == "█▅▁"
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert len(sparkline([float(n) for n in range(1000)])) == 40
