"""Answers to callers without a connection: the same bodies, refusals and limits as over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

from server.app import GatewayApp, create_app
from server.config import EngineKind, Limits, ModelEntry
from server.gate import ClientGone
from server.generating import ROUTES
from server.generation.detached import Answered, DetachedCaller
from server.validation import validate_body
from tests.gateway.conftest import (
    DEADLINE_S,
    KEY,
    MODEL,
    REPLIES,
    SECOND_KEY,
    Gateway,
    make_config,
    start_gateway,
    start_worker,
    user,
)

CHAT = "/v1/chat/completions"
WEATHER = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("detached")
    capabilities = ["logprobs", "seed", "json_schema", "structural_tag", "embed", "score"]
    worker = start_worker(folder, "engine", REPLIES, capabilities=capabilities)
    entry = ModelEntry(
        id=MODEL, path="/nowhere", engine=EngineKind.SCRIPTED, template="qwen3", max_concurrent=2
    )
    config = make_config(folder)
    config = config.model_copy(update={"models": (entry,)})
    running = start_gateway(config, [worker], [MODEL])
    yield running
    running.stop()
    worker.stop()


@pytest.fixture
async def app(connected: Gateway) -> AsyncGenerator[GatewayApp]:
    """An app that no server listens for, on the same store and engine."""
    opened = create_app(connected.config)
    async with opened.running():
        yield opened


async def ask(app: GatewayApp, path: str, body: dict[str, Any], key: str = KEY) -> Answered:
    caller = await new_caller(app, key)
    answering = answer(app, path, body, caller)
    return await asyncio.wait_for(caller.attend(answering), DEADLINE_S)


async def new_caller(app: GatewayApp, key: str = KEY) -> DetachedCaller:
    keys = app.services.keys
    return DetachedCaller(await keys.authenticate(f"Bearer {key}".encode(), "POST", "/v1/chat"))


def answer(
    app: GatewayApp, path: str, body: dict[str, Any], caller: DetachedCaller
) -> Awaitable[None]:
    (route,) = [route for route in ROUTES if route.path == path]
    request = validate_body(route.request, json.dumps({"model": MODEL, **body}).encode())
    assert caller.call.principal is not None
    return app.endpoints[path].answer(caller.call.principal, request, caller)


def same_in_every_answer(body: bytes) -> dict[str, Any]:
    value = json.loads(body)
    for name in ("id", "created"):
        value.pop(name, None)
    for choice in value.get("choices", ()):
        for call in choice.get("message", {}).get("tool_calls", ()):
            call.pop("id")
    return value


@pytest.mark.parametrize(
    ("path", "asked", "status"),
    [
        (CHAT, {"messages": user("say hello"), "metadata": {"a": "b"}, "n": 2}, 200),
        (CHAT, {"messages": user("think first"), "logprobs": True, "top_logprobs": 1}, 200),
        (CHAT, {"messages": user("two tools"), "tools": [WEATHER]}, 200),
        (CHAT, {"messages": user("think long"), "thinking_budget": 3}, 200),
        (CHAT, {"messages": user("say hello"), "stop": ["friend"]}, 200),
        (CHAT, {"messages": user("break later")}, 500),
        (CHAT, {"messages": user("refuse me")}, 400),
        (CHAT, {"messages": user("full queue")}, 503),
        (CHAT, {"messages": user("say hello"), "model": "nobody's"}, 404),
        (CHAT, {"messages": user("say hello"), "guided_regex": "a", "store": False}, 400),
        ("/v1/completions", {"prompt": ["say hello", "say nothing"]}, 200),
        ("/v1/completions", {"prompt": "say hello", "suffix": "s"}, 400),
        ("/v1/embeddings", {"input": ["one two", "three"]}, 200),
        ("/v1/score/evaluation", {"messages": ["good", "bad"]}, 200),
    ],
)
async def test_without_a_connection_the_answer_is_what_a_connection_gets(
    connected: Gateway, app: GatewayApp, path: str, asked: dict[str, Any], status: int
) -> None:
    answered = await ask(app, path, asked)
    over_http = await asyncio.to_thread(
        httpx.post,
        f"{connected.url}{path}",
        json={"model": MODEL, **asked},
        headers={"authorization": f"Bearer {KEY}"},
        timeout=DEADLINE_S,
    )
    assert answered.status == over_http.status_code == status
    assert same_in_every_answer(answered.body) == same_in_every_answer(over_http.content)
    assert (answered.error is None) is (status == 200)
    assert app.services.runner.num_under_way == 0


async def test_an_answer_that_nobody_waits_for_any_more_ends_at_the_engine(app: GatewayApp) -> None:
    runner = app.services.runner
    asking = asyncio.create_task(ask(app, CHAT, {"messages": user("never end")}))
    await until(lambda: runner.num_under_way == 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (runner.num_under_way, runner.lines[MODEL].num_inside) == (0, 0)
    (connection,) = app.services.pool.connections()
    await until(lambda: connection.num_requests == 0)


async def test_one_that_waits_for_its_turn_can_be_abandoned(app: GatewayApp) -> None:
    runner, line = app.services.runner, app.services.runner.lines[MODEL]
    callers = [await new_caller(app) for _ in range(3)]
    asking = [
        asyncio.create_task(
            caller.attend(answer(app, CHAT, {"messages": user("never end")}, caller))
        )
        for caller in callers
    ]
    await until(lambda: (runner.num_under_way, line.num_waiting) == (2, 1))
    callers[2].abandon()
    with pytest.raises(ClientGone):
        await asking[2]
    assert (line.num_inside, line.num_waiting) == (2, 0)
    for caller in callers[:2]:
        caller.abandon()
    await asyncio.gather(*asking, return_exceptions=True)
    assert (line.num_inside, runner.num_under_way) == (0, 0)


async def test_its_tokens_count_against_its_keys_limit(connected: Gateway) -> None:
    limits = Limits(tokens_per_minute=1, per_minute_of="key")
    app = create_app(connected.config.model_copy(update={"limits": limits}))
    async with app.running():
        asked = {"messages": user("say hello")}
        assert (await ask(app, CHAT, asked, SECOND_KEY)).status == 200
        refused = await ask(app, CHAT, asked, SECOND_KEY)
    assert refused.status == 429
    assert refused.error is not None
    assert "retry-after" in dict(refused.error.headers)


async def test_a_fault_of_the_server_is_answered_without_its_words(app: GatewayApp) -> None:
    async def broken() -> None:
        raise RuntimeError("secret detail")

    caller = await new_caller(app)
    answered = await caller.attend(broken())
    assert answered.status == caller.call.status == 500
    assert b"secret" not in answered.body


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.001)
