"""Models under further names and in other projects: aliases, and permissions to use fine-tunes."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.jobs.conftest import settings_for
from tests.jobs.live import OTHER_KEY, Service, running_gateway, running_supervisor
from tests.jobs.stories import create, say, upload, wait_for

ALIAS = "gpt-4o-mini-2024-07-18"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Generator[Service]:
    folder = tmp_path_factory.mktemp("names")
    settings: Any = settings_for(tiny_model)
    settings["models"][0]["aliases"] = [ALIAS]
    with (
        running_gateway(folder, settings) as gateway,
        running_supervisor(folder) as supervisor,
    ):
        yield Service(gateway, supervisor, folder)


@pytest.fixture(scope="module")
def mine(service: Service) -> OpenAI:
    return service.gateway.client()


@pytest.fixture(scope="module")
def theirs(service: Service) -> OpenAI:
    return service.gateway.client(OTHER_KEY)


@pytest.fixture(scope="module")
def job(mine: OpenAI) -> FineTuningJob:
    """Trained from an alias."""
    job = create(mine, model=ALIAS, seed=5, hyperparameters={"n_epochs": 2})
    assert job.model == ALIAS
    done = wait_for(mine, job.id)
    assert done.status == "succeeded"
    return done


def test_an_alias_is_trained_as_its_model(mine: OpenAI, job: FineTuningJob) -> None:
    assert job.model == ALIAS
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model.startswith("ft:tiny:")
    extra = mine.models.retrieve(job.fine_tuned_model).model_extra
    assert extra is not None
    assert (extra["root"], extra["parent"]) == ("tiny", "tiny")


def test_training_goes_on_from_an_alias_that_was_moved_to_a_fine_tune(
    mine: OpenAI, theirs: OpenAI, job: FineTuningJob
) -> None:
    body = {"points_to": job.fine_tuned_model}
    mine.post("/models/latest", body=body, cast_to=dict[str, Any])
    assert say(mine, "latest") == f"I am {job.fine_tuned_model}."
    with pytest.raises(openai.NotFoundError):
        say(theirs, "latest")
    further = wait_for(mine, create(mine, model="latest", seed=6).id)
    assert further.fine_tuned_model is not None
    extra = mine.models.retrieve(further.fine_tuned_model).model_extra
    assert extra is not None
    assert extra["parent"] == job.fine_tuned_model


def test_a_shared_fine_tune_is_served_until_its_permission_ends(
    mine: OpenAI, theirs: OpenAI, job: FineTuningJob
) -> None:
    model = job.fine_tuned_model or ""
    with pytest.raises(openai.NotFoundError):
        say(theirs, model)
    permissions = mine.fine_tuning.checkpoints.permissions
    granted = permissions.create(model, project_ids=["proj_other"]).data[0]
    assert granted.id.startswith("cp_")
    assert (granted.object, granted.project_id) == ("checkpoint.permission", "proj_other")
    assert say(theirs, model) == f"I am {model}."
    assert model in [found.id for found in theirs.models.list()]
    theirs.post("/models/borrowed", body={"points_to": model}, cast_to=dict[str, Any])
    assert say(theirs, "borrowed") == f"I am {model}."
    with pytest.raises(openai.BadRequestError) as caught:
        create(theirs, upload(theirs), model=model, seed=7)
    assert caught.value.code == "model_not_available"
    with pytest.raises(openai.PermissionDeniedError):
        theirs.models.delete(model)
    gone = permissions.delete(granted.id, fine_tuned_model_checkpoint=model)
    assert (gone.id, gone.deleted, gone.object) == (granted.id, True, "checkpoint.permission")
    for name in (model, "borrowed"):
        with pytest.raises(openai.NotFoundError):
            say(theirs, name)
        assert name not in [found.id for found in theirs.models.list()]
    assert say(mine, model) == f"I am {model}."


def test_a_checkpoint_of_a_job_is_shared_alone(
    mine: OpenAI, theirs: OpenAI, job: FineTuningJob
) -> None:
    checkpoints = mine.fine_tuning.jobs.checkpoints.list(job.id).data
    model = checkpoints[0].fine_tuned_model_checkpoint
    permissions = mine.fine_tuning.checkpoints.permissions
    granted = permissions.create(model, project_ids=["proj_other"]).data[0]
    assert say(theirs, model) == f"I am {model}."
    assert model in [found.id for found in theirs.models.list()]
    assert model not in [found.id for found in mine.models.list()]
    with pytest.raises(openai.NotFoundError):
        say(theirs, job.fine_tuned_model or "")
    permissions.delete(granted.id, fine_tuned_model_checkpoint=model)


def test_only_the_owner_sees_and_changes_permissions(
    mine: OpenAI, theirs: OpenAI, job: FineTuningJob
) -> None:
    model = job.fine_tuned_model or ""
    permissions = mine.fine_tuning.checkpoints.permissions
    granted = permissions.create(model, project_ids=["proj_other"]).data[0]
    foreign = theirs.fine_tuning.checkpoints.permissions
    for call in (
        lambda: foreign.list(model).data,
        lambda: foreign.create(model, project_ids=["proj_other"]),
        lambda: foreign.delete(granted.id, fine_tuned_model_checkpoint=model),
        lambda: permissions.list("tiny").data,
        lambda: permissions.list(ALIAS).data,
        lambda: permissions.delete("cp_none", fine_tuned_model_checkpoint=model),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    for project_ids in ([], ["nobody"], ["proj_other", "nobody"]):
        with pytest.raises(openai.BadRequestError) as caught:
            permissions.create(model, project_ids=project_ids)
        assert caught.value.param == "project_ids"
    assert permissions.create(model, project_ids=["proj_other"]).data[0].id == granted.id
    permissions.delete(granted.id, fine_tuned_model_checkpoint=model)
