"""A gateway that is killed amid background responses, and one that has as many as it may."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.gateway.conftest import MODEL, Worker, put_engine, start_worker
from tests.jobs.live import OTHER_KEY, running_gateway
from tests.responses.test_background import begin, until

SETTINGS: dict[str, object] = {
    "models": [{"id": MODEL, "path": "/nowhere", "engine": "scripted", "template": "qwen3"}],
    "limits": {"background_responses": 3, "background_responses_per_project": 2},
}
REPLIES: list[dict[str, Any]] = [{"contains": "never end", "tokens": ["word "], "hangs": True}]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    started = start_worker(tmp_path_factory.mktemp("rw"), "engine", REPLIES)
    yield started
    started.stop()


def _refused(client: openai.OpenAI) -> str:
    with pytest.raises(openai.RateLimitError) as refused:
        begin(client, "never end")
    assert refused.value.response.headers["retry-after"] == "5"
    return refused.value.message


def test_what_a_killed_gateway_ran_ends_as_failed(tmp_path: Path, worker: Worker) -> None:
    with running_gateway(tmp_path, SETTINGS) as gateway:
        asyncio.run(put_engine(gateway.database_url, worker))
        client, other = gateway.client(), gateway.client(OTHER_KEY)
        made = [begin(client, "never end").id for _ in range(2)]
        for each in made:
            until(client, each, lambda seen: seen.status == "in_progress")
        assert "your project may have" in _refused(client)
        foreign = begin(other, "never end").id
        assert "this server may have" in _refused(other)
        assert other.responses.cancel(foreign).status == "cancelled"
        gateway.process.kill()
    with running_gateway(tmp_path, SETTINGS) as gateway:
        client = gateway.client()
        for each in made:
            ended = until(client, each)
            assert ended.status == "failed"
            assert ended.error is not None
            assert ended.error.code == "server_error"
            assert ended.error.message.startswith("The gateway that ran this response stopped")
            with pytest.raises(openai.BadRequestError) as refused:
                client.responses.retrieve(each, stream=True)
            assert refused.value.code == "events_not_available"
