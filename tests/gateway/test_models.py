"""Models: list, retrieve, delete; ids with slashes and colons."""

from __future__ import annotations

import asyncio
from pathlib import Path

import openai
import pytest
from sqlalchemy import text

from server.store import Store, open_store
from server.store.models import insert_model
from server.store.records import Model, ModelKind
from tests.gateway.conftest import MODEL, Gateway, user

FINE_TUNED = "ft:org/base:acme:my-suffix:abcd1234"


async def _add_adapter(url: str, model_id: str, project: str, path: Path) -> None:
    store: Store = await open_store(url)
    async with store._database.write() as connection:
        uid = await connection.scalar(text("select coalesce(max(adapter_uid), 0) + 1 from models"))
        await insert_model(
            connection,
            Model(
                id=model_id,
                project_id=project,
                kind=ModelKind.ADAPTER,
                parent=MODEL,
                base=MODEL,
                engine_model=MODEL,
                path=str(path),
                adapter_uid=uid,
                created_at=1_800_000_000,
                owned_by="acme",
                job_id=None,
            ),
        )
    await store.close()


def _adapter(gateway: Gateway, folder: Path, model_id: str, project: str = "proj_test") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    asyncio.run(_add_adapter(gateway.config.database_url, model_id, project, folder))


def test_the_list_has_the_base_models(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert models[MODEL].object == "model"
    assert models[MODEL].created == 1_700_000_000
    assert models[MODEL].owned_by == "tuneyard"


def test_a_fine_tuned_model_from_registration_to_deletion(
    gateway: Gateway, client: openai.OpenAI, tmp_path: Path
) -> None:
    _adapter(gateway, tmp_path / "adapter", FINE_TUNED)
    found = client.models.retrieve(FINE_TUNED)
    assert found.id == FINE_TUNED
    assert found.parent == MODEL
    assert found.root == MODEL
    answer = client.chat.completions.create(model=FINE_TUNED, messages=user("say hello"))
    assert answer.model == FINE_TUNED
    assert client.models.delete(FINE_TUNED).deleted is True
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model=FINE_TUNED, messages=user("say hello"))
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.delete(FINE_TUNED)


def test_a_model_whose_files_are_gone_is_not_a_missing_one(
    gateway: Gateway, client: openai.OpenAI, tmp_path: Path
) -> None:
    name = "ft:tuned:acme::gone"
    _adapter(gateway, tmp_path / "gone", name)
    (tmp_path / "gone" / "adapter_config.json").unlink()
    with pytest.raises(openai.InternalServerError) as caught:
        client.with_options(max_retries=0).chat.completions.create(model=name, messages=user("hi"))
    assert caught.value.status_code == 503
    assert (caught.value.code, caught.value.param) == ("model_not_loaded", "model")
    assert int(caught.value.response.headers["retry-after"]) > 0
    assert str(tmp_path) not in caught.value.message


def test_another_tenants_model_does_not_exist(
    gateway: Gateway, client: openai.OpenAI, tmp_path: Path
) -> None:
    async def other_project() -> None:
        store = await open_store(gateway.config.database_url)
        await store.projects.ensure("proj_other", "Other")
        await store.close()

    asyncio.run(other_project())
    _adapter(gateway, tmp_path / "adapter", "ft:theirs:other::x", "proj_other")
    assert "ft:theirs:other::x" not in [model.id for model in client.models.list()]
    for call in (client.models.retrieve, client.models.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            call("ft:theirs:other::x")
        assert caught.value.code == "model_not_found"


def test_a_base_model_cannot_be_deleted(client: openai.OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.models.delete(MODEL)
    assert caught.value.code == "model_not_allowed"


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no/such:model")
    assert caught.value.body == {
        "message": "The model 'no/such:model' does not exist or you do not have access to it.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
