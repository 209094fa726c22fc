"""What one project learns of another's prompts over HTTP: nothing, unless the operator lets them
share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from server.config import Config, EngineKind, ModelEntry
from server.store import open_store
from tests.gateway.conftest import MODEL, Gateway, Worker, start_gateway

from . import models
from .conftest import WorkerProcess

OTHER_KEY = "sk-other-0123456789abcdef0123456789abcdef"
PROMPT = "The quick brown fox jumps over the lazy dog, yes no maybe red green blue. " * 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make_model(tmp_path_factory.mktemp("scopes") / "model")


@pytest.fixture
def gateway(request: pytest.FixtureRequest, tmp_path: Path, model: Path) -> Iterator[Gateway]:
    entry = ModelEntry(
        id=MODEL, path="/nowhere", engine=EngineKind.HF, template="qwen3", **request.param
    )
    config = Config(data=tmp_path, models=(entry,))
    worker = WorkerProcess(
        tmp_path / "worker", backend="hf", model_id=MODEL, model_path=str(model), device="cpu"
    )
    gateway = None
    try:
        asyncio.run(_wait_started(worker))
        gateway = start_gateway(config, [Worker(worker.address, worker.process)], [MODEL])  # type: ignore[arg-type]
        asyncio.run(_add_project(config))
        yield gateway
    finally:
        if gateway is not None:
            gateway.stop()
        worker.end()


async def _wait_started(worker: WorkerProcess) -> None:
    await (await worker.client()).close()


async def _add_project(config: Config) -> None:
    store = await open_store(config.database_url)
    project = await store.projects.ensure("proj_other", "Other")
    await store.keys.add(project.id, OTHER_KEY, "other")
    await store.close()


def _completion(client: openai.OpenAI, text: str) -> int:
    done = client.completions.create(model=MODEL, prompt=text, max_tokens=4)
    assert done.usage is not None
    assert done.usage.prompt_tokens_details is not None
    return done.usage.prompt_tokens_details.cached_tokens or 0


def _chat(client: openai.OpenAI, text: str) -> int:
    message: Any = {"role": "user", "content": text}
    done = client.chat.completions.create(model=MODEL, messages=[message], max_tokens=4)
    assert done.usage is not None
    assert done.usage.prompt_tokens_details is not None
    return done.usage.prompt_tokens_details.cached_tokens or 0


@pytest.mark.parametrize("gateway", [{}], indirect=True, ids=["apart"])
def test_cached_tokens_do_not_tell_what_another_project_sent(gateway: Gateway) -> None:
    one, other = gateway.client(), gateway.client(api_key=OTHER_KEY)
    for ask in (_completion, _chat):
        found = [ask(client, f"{ask.__name__} {PROMPT}") for client in (one, other, one, other)]
        assert max(found[:2]) < 16
        assert min(found[2:]) > 30


@pytest.mark.parametrize("gateway", [{"shared_prefix_cache": True}], indirect=True, ids=["shared"])
def test_projects_share_where_the_operator_says_so(gateway: Gateway) -> None:
    one, other = gateway.client(), gateway.client(api_key=OTHER_KEY)
    for ask in (_completion, _chat):
        assert ask(one, f"{ask.__name__} {PROMPT}") < 16
        assert ask(other, f"{ask.__name__} {PROMPT}") > 30
