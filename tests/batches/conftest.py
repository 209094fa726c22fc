"""A gateway with a scripted engine, and files of requests for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from server.config import Limits
from server.store import open_store
from tests.gateway.conftest import (
    MODEL,
    Gateway,
    make_config,
    start_gateway,
    start_worker,
    wait_for,
)

FOREIGN_KEY = "sk-foreign-0123456789abcdef0123456789abcdef"
REPLIES: list[dict[str, Any]] = [
    {"contains": "say hello", "tokens": ["Hello", " there"]},
    {"contains": "never end", "tokens": ["word "], "hangs": True},
    {
        "contains": "refuse me",
        "fail": {"kind": "context_length_exceeded", "message": "Too long.", "param": "messages"},
    },
]
ENDED = ("completed", "failed", "expired", "cancelled")


def line(custom_id: str, text: str = "say hello", **body: Any) -> dict[str, Any]:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": text}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": asked}


def upload(client: openai.OpenAI, lines: Sequence[dict[str, Any]]) -> str:
    content = "".join(json.dumps(entry) + "\n" for entry in lines).encode()
    return client.files.create(file=("in.jsonl", content), purpose="batch").id


def create(client: openai.OpenAI, lines: Sequence[dict[str, Any]], **more: Any) -> Batch:
    settings: dict[str, Any] = {
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        **more,
    }
    return client.batches.create(input_file_id=upload(client, lines), **settings)


def until(
    client: openai.OpenAI, batch_id: str, fits: Callable[[Batch], bool] | None = None
) -> Batch:
    """The batch once it fits, or else has ended."""
    seen = client.batches.retrieve(batch_id)

    def is_there() -> bool:
        nonlocal seen
        seen = client.batches.retrieve(batch_id)
        return fits(seen) if fits is not None else seen.status in ENDED

    wait_for(is_there)
    return seen


def rows(client: openai.OpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    """Of an output or error file, by custom id; none stands there twice."""
    if file_id is None:
        return {}
    lines = [json.loads(text) for text in client.files.content(file_id).text.splitlines()]
    found = {row["custom_id"]: row for row in lines}
    assert len(found) == len(lines)
    return found


async def _add_project(database_url: str) -> None:
    store = await open_store(database_url)
    other = await store.projects.ensure("proj_foreign", "Foreign")
    await store.keys.add(other.id, FOREIGN_KEY, "foreign")
    await store.close()


def started(folder: Path, **limits: Any) -> tuple[Gateway, Callable[[], None]]:
    worker = start_worker(folder, "engine", REPLIES)
    config = make_config(folder, limits=Limits(**limits))
    running = start_gateway(config, [worker], [MODEL])
    asyncio.run(_add_project(config.database_url))

    def stop() -> None:
        running.stop()
        worker.stop()

    return running, stop


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running, stop = started(
        tmp_path_factory.mktemp("bt"), batch_lines_at_once=8, requests_per_minute=1000
    )
    yield running
    stop()


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with gateway.client(_strict_response_validation=True) as opened:
        yield opened
