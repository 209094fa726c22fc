"""Engine workers of full fine-tunes start when they are asked for, stop when they are not, and are
as many as allowed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from tests.jobs.conftest import settings_for
from tests.jobs.live import engines_of, running_gateway, running_supervisor, wait_until
from tests.jobs.stories import create, say, wait_for

FULL = {"finetuning_type": "full", "n_epochs": 2, "batch_size": 6}


def served_by(supervisor: int, data: Path) -> set[str]:
    """Models that have an engine worker; as many processes as the store says."""
    with closing(sqlite3.connect(data / "tuneyard.db")) as database:
        found = {name for (name,) in database.execute("SELECT model_id FROM engines")}
    return found if len(found) == len(engines_of(supervisor)) else set()


def test_workers_run_while_their_models_are_used(tmp_path: Path, tiny_model: Path) -> None:
    limits = {"max_fine_tune_engines": 1, "fine_tune_idle_s": 10.0}
    settings = {**settings_for(tiny_model), "limits": limits}
    with (
        running_gateway(tmp_path, settings) as gateway,
        running_supervisor(tmp_path) as supervisor,
    ):

        def served() -> set[str]:
            return served_by(supervisor.pid, gateway.data)

        client = gateway.client()
        job = wait_for(client, create(client, hyperparameters=FULL).id)
        model = job.fine_tuned_model
        assert model is not None
        assert say(client, model) == "I am base."
        wait_until(lambda: _says(client, model) and served() == {"tiny", model})
        newest, oldest = client.fine_tuning.jobs.checkpoints.list(job.id)
        for checkpoint in (oldest, newest):
            name = checkpoint.fine_tuned_model_checkpoint
            assert say(client, name) == "I am base."
            wait_until(lambda name=name: _says(client, name) and served() == {"tiny", name})
        wait_until(lambda: served() == {"tiny"})
        assert say(client, model) == "I am base."


def test_a_model_that_does_not_start_in_time_is_a_503(tmp_path: Path, tiny_model: Path) -> None:
    limits = {"max_start_wait_s": 0.0, "fine_tune_idle_s": 60.0}
    settings = {**settings_for(tiny_model), "limits": limits}
    with running_gateway(tmp_path, settings) as gateway, running_supervisor(tmp_path):
        client = gateway.client()
        job = wait_for(client, create(client, hyperparameters=FULL).id)
        checkpoint = next(iter(client.fine_tuning.jobs.checkpoints.list(job.id)))
        name = checkpoint.fine_tuned_model_checkpoint
        with pytest.raises(openai.InternalServerError) as refused:
            say(client, name)
        assert refused.value.status_code == 503
        assert float(refused.value.response.headers["retry-after"]) > 0
        assert "is being started" in refused.value.message
        wait_until(lambda: _says(client, name))


def _says(client: OpenAI, model: str) -> bool:
    try:
        return say(client, model) == "I am base."
    except openai.InternalServerError:
        return False
