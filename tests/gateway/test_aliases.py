"""Aliases: further names of models, of the configuration and of projects."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import ValidationError

from server.auth import Principal
from server.config import Config
from server.engines.pool import EnginePool
from server.models.catalog import Catalog
from server.store import open_store
from server.store.records import Model, Project
from tests.call_counts import num_calls
from tests.gateway.conftest import ALIAS, KEY, MODEL, Gateway, user
from tests.gateway.test_models import _adapter

OTHER_KEY = "sk-alias-0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def other(gateway: Gateway) -> Iterator[openai.OpenAI]:
    """A client of another project."""

    async def add_project() -> None:
        store = await open_store(gateway.config.database_url)
        await store.projects.ensure("proj_alias", "Alias")
        await store.keys.add("proj_alias", OTHER_KEY, "other")
        await store.close()

    asyncio.run(add_project())
    with gateway.client(api_key=OTHER_KEY) as client:
        yield client


def move(client: openai.OpenAI, alias: str, model: str) -> dict[str, Any]:
    return client.post(f"/models/{alias}", body={"points_to": model}, cast_to=dict[str, Any])


def listed(client: openai.OpenAI) -> dict[str, Any]:
    return {model.id: model for model in client.models.list()}


def test_an_alias_of_an_entry_is_listed_and_shows_its_model(client: openai.OpenAI) -> None:
    for found in (listed(client)[ALIAS], client.models.retrieve(ALIAS)):
        assert (found.id, found.points_to, found.root) == (ALIAS, MODEL, MODEL)
    assert client.models.retrieve(MODEL).points_to is None


def test_an_alias_is_answered_and_echoed_as_asked(client: openai.OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model=ALIAS, messages=user("say hello")
    )
    assert answer.headers["openai-model"] == MODEL
    assert answer.parse().model == ALIAS
    assert answer.parse().choices[0].message.content == "Hello there, friend."
    stream = client.chat.completions.create(model=ALIAS, messages=user("say hello"), stream=True)
    assert {chunk.model for chunk in stream} == {ALIAS}
    assert client.completions.create(model=ALIAS, prompt="say hello").model == ALIAS


def test_an_alias_moves_to_a_fine_tune_and_back_for_its_project_alone(
    gateway: Gateway, client: openai.OpenAI, other: openai.OpenAI, tmp_path: Path
) -> None:
    tuned = "ft:scripted-model:acme::aliased1"
    _adapter(gateway, tmp_path / "adapter", tuned)

    def answering(caller: openai.OpenAI, name: str) -> str:
        answer = caller.chat.completions.with_raw_response.create(
            model=name, messages=user("say hello")
        )
        assert answer.parse().model == name
        return answer.headers["openai-model"]

    assert answering(client, ALIAS) == MODEL
    assert move(client, ALIAS, tuned)["points_to"] == tuned
    assert answering(client, ALIAS) == tuned
    assert listed(client)[ALIAS].points_to == tuned
    assert answering(other, ALIAS) == MODEL
    assert listed(other)[ALIAS].points_to == MODEL
    move(client, "team/latest", tuned)
    with pytest.raises(openai.NotFoundError):
        other.models.retrieve("team/latest")
    assert "team/latest" not in listed(other)
    client.models.delete(tuned)
    for name in (ALIAS, "team/latest"):
        with pytest.raises(openai.NotFoundError):
            answering(client, name)
        assert name not in listed(client)
        assert client.models.delete(name).deleted
    assert answering(client, ALIAS) == MODEL


def test_a_project_can_neither_delete_nor_name_what_is_not_its_own(
    client: openai.OpenAI, other: openai.OpenAI
) -> None:
    move(client, "mine", MODEL)
    with pytest.raises(openai.NotFoundError):
        other.models.delete("mine")
    with pytest.raises(openai.PermissionDeniedError):
        other.models.delete(ALIAS)
    move(other, "mine", "asleep")
    assert client.models.retrieve("mine").model_extra["points_to"] == MODEL  # type: ignore[index]
    for caller in (client, other):
        assert caller.models.delete("mine").deleted


@pytest.mark.parametrize(
    ("alias", "body", "param", "code"),
    [
        (MODEL, {"points_to": MODEL}, "model", "invalid_value"),
        ("ft:mine", {"points_to": MODEL}, "model", "invalid_value"),
        ("two words", {"points_to": MODEL}, "model", "invalid_value"),
        ("x" * 257, {"points_to": MODEL}, "model", "invalid_value"),
        ("new", {"points_to": "nobody"}, "points_to", "model_not_found"),
        ("new", {"points_to": ALIAS}, "points_to", "invalid_value"),
        ("new", {"points_to": 7}, "points_to", "invalid_type"),
        ("new", {}, "points_to", "missing_required_parameter"),
        ("new", {"points_to": MODEL, "more": 1}, "more", "unknown_parameter"),
    ],
)
def test_a_wrong_alias_is_refused_by_name(
    gateway: Gateway, alias: str, body: dict[str, Any], param: str, code: str
) -> None:
    answer = httpx.post(
        f"{gateway.url}/v1/models/{alias}", json=body, headers={"Authorization": f"Bearer {KEY}"}
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        (["m"], "model ids appear twice: m"),
        (["a", "a"], "model ids appear twice: a"),
        (["style"], "model ids appear twice: style"),
        (["ft:x"], "begin with ft:"),
        (["a b"], "an alias"),
    ],
)
def test_names_of_entries_are_unique_and_plain(aliases: list[str], message: str) -> None:
    entry = {
        "id": "m",
        "path": "/m",
        "aliases": aliases,
        "adapters": [{"id": "style", "path": "/a"}],
    }
    with pytest.raises(ValidationError, match=f"(?i){message}"):
        Config.model_validate({"models": [entry]})


async def test_a_name_that_was_just_asked_for_costs_what_an_id_costs(tmp_path: Path) -> None:
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'tuneyard.db'}")
    await store.models.put_base(MODEL, "/m", "tuneyard", 1)
    await store.aliases.configure({ALIAS: MODEL})
    catalog = Catalog(store.models, EnginePool(store.engines, 1, {}), Config())
    caller = Principal("key", Project("proj", "Project", "project", 1))

    async def calls(name: str) -> int:
        found: list[Model] = []

        def take() -> None:
            asking = catalog.find(name, caller)
            try:
                asking.send(None)
            except StopIteration as answer:
                found.append(answer.value)
            asking.close()

        while not found:
            await catalog.find(name, caller)
            count = num_calls(take)
        assert found[0].id == MODEL
        return count

    assert await calls(ALIAS) == await calls(MODEL)
    await store.close()
