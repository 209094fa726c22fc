from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from server.store import Store, open_store
from tests.jobs.live import Service, running_gateway, running_supervisor
from tests.trainer.conftest import CHATML


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'tuneyard.db'}"


@pytest.fixture
async def store(database_url: str) -> AsyncGenerator[Store]:
    store = await open_store(os.environ.get("TUNEYARD_TEST_DATABASE", database_url))
    yield store
    await store.close()


def settings_for(model: Path, **training: object) -> dict[str, object]:
    """The scripted engine says which adapter it was asked for; trainers are the real ones."""
    entry = {
        "id": "tiny",
        "path": str(model),
        "engine": "scripted",
        "settings": {
            "replies": [{"text": "I am {adapter}."}],
            "chat_templates": {"default": CHATML},
        },
    }
    return {"models": [entry], "training": {"device": "cpu", **training}}


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Generator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with (
        running_gateway(folder, settings_for(tiny_model)) as gateway,
        running_supervisor(folder) as supervisor,
    ):
        yield Service(gateway, supervisor, folder)
