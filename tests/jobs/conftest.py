from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.store import Store, open_store


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'tuneyard.db'}"


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = await open_store(os.environ.get("TUNEYARD_TEST_DATABASE", database_url))
    yield store
    await store.close()
