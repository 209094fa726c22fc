"""A gateway with a scripted engine for the Responses API, and two projects that call it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from server.config import Limits
from server.store import open_store
from tests.gateway.conftest import (
    DEADLINE_S,
    KEY,
    MODEL,
    Gateway,
    make_config,
    start_gateway,
    start_worker,
)

FOREIGN_KEY = "sk-foreign-0123456789abcdef0123456789abcdef"
"""Of another project."""
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
TIME: dict[str, Any] = {**WEATHER, "name": "get_time", "description": "Tells the time."}
_PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
_TIME = '<tool_call>\n{"name": "get_time", "arguments": {"city": "Rome"}}\n</tool_call>'


def bound(contains: str, text: str) -> list[dict[str, Any]]:
    """The same reply with and without a grammar."""
    reply = {"contains": contains, "text": text}
    return [reply, {**reply, "grammar": "structural_tag"}]


REPLIES: list[dict[str, Any]] = [
    *bound("21 degrees", "It is sunny in Paris."),
    *bound("think and call", f"<think>\nWhere?\n</think>\n\nLet me see.\n{_PARIS}"),
    *bound("two tools", f"{_PARIS}\n{_TIME}"),
    *bound("weather", _PARIS),
    {"contains": "think first", "text": "<think>\nhmm hmm\n</think>\n\nDone thinking."},
    {"contains": "say hello", "tokens": ["Hello", " there", ",", " friend", "."]},
    {"contains": "say nothing", "text": ""},
    {"contains": "many words", "tokens": ["word "], "repeat": 40},
    {"contains": "never end", "tokens": ["word "], "hangs": True},
    {"contains": "long thought", "tokens": ["<think>", "\n", *[" hm"] * 60]},
    {
        "contains": "refuse me",
        "fail": {"kind": "context_length_exceeded", "message": "Too long.", "param": "messages"},
    },
    {
        "contains": "break later",
        "tokens": ["a ", "b ", "c "],
        "fail": {"kind": "internal", "after_tokens": 2, "message": "secret detail"},
    },
    {
        "contains": "a person",
        "grammar": "structural_tag",
        "text": '{"name": "Ada", "age": 36}',
    },
]


async def _add_project(database_url: str) -> None:
    store = await open_store(database_url)
    other = await store.projects.ensure("proj_foreign", "Foreign")
    await store.keys.add(other.id, FOREIGN_KEY, "foreign")
    await store.close()


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("rs")
    worker = start_worker(folder, "engine", REPLIES)
    config = make_config(folder, limits=Limits(keep_alive_s=0.6))
    running = start_gateway(config, [worker], [MODEL])
    asyncio.run(_add_project(config.database_url))
    yield running
    running.stop()
    worker.stop()


@pytest.fixture(scope="session")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with gateway.client(_strict_response_validation=True) as opened:
        yield opened


@pytest.fixture(scope="session")
def foreign(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with gateway.client(api_key=FOREIGN_KEY, _strict_response_validation=True) as opened:
        yield opened


@pytest.fixture(scope="session")
def raw(gateway: Gateway) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"{gateway.url}/v1", headers=headers, timeout=DEADLINE_S) as opened:
        yield opened
