"""No route gives anything of another project away: every route with an id in its path, for every
id of another project."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest

from server.app import create_app
from server.auth import ADMINISTRATION
from server.config import Config
from server.store import open_store
from server.store.progress import Outcome
from server.store.records import JobStatus
from tests.gateway.conftest import KEY
from tests.jobs.factories import INTERRUPTED, STARTED, make_queued, new_file, new_model
from tests.organization.conftest import PROJECT, Service, chat

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions/{completion_id}": {"json": {"metadata": None}},
    "/v1/uploads/{upload_id}/parts": {"files": {"data": ("part", b"x")}},
    "/v1/uploads/{upload_id}/complete": {"json": {"part_ids": ["part_x"]}},
    "/v1/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions": {
        "json": {"project_ids": ["proj_x"]}
    },
}
"""Of routes that would refuse a request without one before they look for the object."""
NAMING = ("POST", "/v1/models/{model}")
"""It makes an alias of that name."""


def routes(below: str) -> Iterator[tuple[str, str]]:
    for path, methods in create_app(Config()).openapi()["paths"].items():
        is_admin = path.startswith(ADMINISTRATION)
        if "{" in path and path.startswith("/v1") and is_admin == (below == ADMINISTRATION):
            for method in methods:
                if (method.upper(), path) != NAMING:
                    yield method.upper(), path


async def make_job_with_model(service: Service, project_id: str) -> list[str]:
    """Ids of a job that has succeeded, its model and its checkpoint, as a supervisor leaves them,
    and of its result file."""
    store = await open_store(service.one.config.database_url)
    job = await make_queued(store, await store.projects.get(project_id))
    assert await store.progress.claim_training("trainer", 60, STARTED, INTERRUPTED)
    uid = await store.models.next_adapter_uid()
    name = job.plan.reserved_model
    file = new_file(project_id)
    outcome = Outcome(new_model(job, name, uid), (file,), 12, ())
    assert await store.progress.succeed("trainer", job.id, outcome)
    done = await store.jobs.find(project_id, job.id)
    assert done is not None
    assert done.status is JobStatus.SUCCEEDED
    await store.close()
    return [job.id, name, file.id]


@pytest.fixture(scope="module")
def objects(service: Service) -> list[str]:
    """Of the project that `KEY` belongs to."""
    file = service.call(
        "POST", "/v1/files", KEY, files={"file": ("a", b"x")}, data={"purpose": "user_data"}
    ).json()
    wanted = {"filename": "a", "purpose": "user_data", "bytes": 1, "mime_type": "text/plain"}
    upload = service.call("POST", "/v1/uploads", KEY, json=wanted).json()
    made = asyncio.run(make_job_with_model(service, PROJECT))
    completion = chat(service.one, store=True).json()["id"]
    return [file["id"], upload["id"], *made, completion]


@pytest.fixture(scope="module")
def stranger(service: Service) -> str:
    projects = service.admin().projects
    project = projects.create(name="Strangers")
    key: str = projects.service_accounts.create(project.id, name="s").api_key.value
    return key


def test_the_owner_finds_his_objects(service: Service, objects: list[str]) -> None:
    """Or the next tests would show nothing."""
    file, _, job, model, result, completion = objects
    for path in (
        f"/v1/files/{file}",
        f"/v1/files/{result}",
        f"/v1/fine_tuning/jobs/{job}",
        f"/v1/fine_tuning/jobs/{job}/events",
        f"/v1/models/{model}",
        f"/v1/chat/completions/{completion}",
        f"/v1/chat/completions/{completion}/messages",
    ):
        assert service.call("GET", path, KEY).status_code == 200, path


@pytest.mark.parametrize(("method", "path"), list(routes("/v1")))
def test_an_id_of_another_project_is_not_found(
    service: Service, objects: list[str], stranger: str, method: str, path: str
) -> None:
    for name in objects:
        there = re.sub(r"\{[^}]*\}", name, path)
        answer = service.call(method, there, stranger, **BODIES.get(path, {}))
        assert answer.status_code == 404, (there, answer.text)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_another_project_s_objects_are_neither_listed_nor_used(
    service: Service, objects: list[str], stranger: str
) -> None:
    file, upload, job, model, _, completion = objects
    for path in ("/v1/files", "/v1/fine_tuning/jobs", "/v1/models", "/v1/chat/completions"):
        shown = service.call("GET", path, stranger).text
        assert not [name for name in (file, upload, job, model, completion) if name in shown]
    assert chat(service.one, stranger, model=model).status_code == 404
    named = service.call("POST", "/v1/models/mine", stranger, json={"points_to": model})
    assert (named.status_code, named.json()["error"]["code"]) == (400, "model_not_found")
    wanted = {"model": "asleep", "training_file": file}
    refused = service.call("POST", "/v1/fine_tuning/jobs", stranger, json=wanted)
    assert refused.status_code == 400
    assert service.call("GET", f"/v1/files?after={file}", stranger).status_code == 404


@pytest.mark.parametrize(("method", "path"), list(routes(ADMINISTRATION)))
def test_administration_finds_a_project_s_parts_below_it_only(
    service: Service, objects: list[str], stranger: str, method: str, path: str
) -> None:
    """Ids of one project below another, and ids of anything else."""
    admin = service.admin()
    other = admin.projects.create(name="Elsewhere")
    made = admin.projects.service_accounts.create(PROJECT, name="here")
    parts = {"{key_id}": made.api_key.id, "{account_id}": made.id, "{rate_limit_id:path}": "rl-x"}
    body = {"json": {"max_requests_per_1_minute": 1}} if "rate_limit" in path else {}
    for project, names in ((other.id, parts), ("proj_none", parts), (objects[0], parts)):
        there = path.replace("{project_id}", project)
        for place, name in names.items():
            there = there.replace(place, name)
        there = re.sub(r"\{[^}]*\}", "rl-none", there)
        if project == other.id and (there.endswith(other.id) or there.count("/") == 5):
            continue  # the project itself, or a list of its own
        if "{project_id}" not in path and method == "GET":
            there = re.sub(r"[^/]+$", objects[0], there)
        elif "{project_id}" not in path:
            there = f"{ADMINISTRATION}/admin_api_keys/{made.api_key.id}"
        more = body or ({"json": {"name": "x"}} if method == "POST" else {})
        answer = service.call(method, there, **more)
        assert answer.status_code == 404, (method, there, answer.text)
