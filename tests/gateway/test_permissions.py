"""Lists of a checkpoint's permissions, and what such a request may hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from server.store import open_store
from tests.gateway.conftest import KEY, Gateway
from tests.gateway.test_models import _adapter

CHECKPOINT = "ft:org/scripted-model:acme::shared01:ckpt-step-3"
PROJECTS = [f"proj_reader_{number}" for number in range(5)]


@pytest.fixture(scope="module")
def shared(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    async def add_projects() -> None:
        store = await open_store(gateway.config.database_url)
        for project in PROJECTS:
            await store.projects.ensure(project, project)
        await store.close()

    asyncio.run(add_projects())
    folder: Path = tmp_path_factory.mktemp("shared")
    _adapter(gateway, folder, CHECKPOINT)
    yield gateway
    gateway.client().models.delete(CHECKPOINT)


def test_permissions_are_paged_both_ways_and_chosen_by_project(
    shared: Gateway,
) -> None:
    permissions = shared.client(
        _strict_response_validation=True
    ).fine_tuning.checkpoints.permissions
    made = permissions.create(CHECKPOINT, project_ids=[*PROJECTS, PROJECTS[0]])
    assert [granted.project_id for granted in made] == PROJECTS
    listed = [granted.project_id for granted in permissions.list(CHECKPOINT, limit=2)]
    assert listed == PROJECTS[::-1]
    oldest = permissions.list(CHECKPOINT, limit=2, order="ascending")
    assert [granted.project_id for granted in oldest] == PROJECTS
    page = permissions.list(CHECKPOINT, limit=2, order="ascending")
    assert (page.has_more, page.last_id) == (True, page.data[-1].id)
    chosen = permissions.list(CHECKPOINT, project_id=PROJECTS[3]).data
    assert [granted.project_id for granted in chosen] == [PROJECTS[3]]
    with pytest.warns(DeprecationWarning, match="list method"):
        whole = permissions.retrieve(CHECKPOINT)
    assert (len(whole.data), whole.has_more, whole.first_id) == (5, False, whole.data[0].id)
    for granted in made:
        permissions.delete(granted.id, fine_tuned_model_checkpoint=CHECKPOINT)
    assert permissions.list(CHECKPOINT).data == []
    with pytest.raises(openai.BadRequestError) as caught:
        permissions.list(CHECKPOINT, after=made.data[0].id)
    assert (caught.value.param, caught.value.code) == ("after", "invalid_value")


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "project_ids", "missing_required_parameter"),
        ({"project_ids": "all"}, "project_ids", "invalid_type"),
        ({"project_ids": ["p"] * 101}, "project_ids", "array_above_max_length"),
        ({"project_ids": ["nobody"]}, "project_ids", "invalid_value"),
        ({"project_ids": ["proj_test"]}, "project_ids", "invalid_value"),
        ({"project_ids": ["p"], "role": "x"}, "role", "unknown_parameter"),
    ],
)
def test_a_wrong_permission_is_refused_by_name(
    shared: Gateway, body: dict[str, object], param: str, code: str
) -> None:
    path = f"/v1/fine_tuning/checkpoints/{CHECKPOINT.replace('/', '%2F')}/permissions"
    answer = httpx.post(shared.url + path, json=body, headers={"Authorization": f"Bearer {KEY}"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
