"""A real gateway (uvicorn in a thread), a real scripted engine worker and the official client."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn

from server.app import GatewayApp, create_app
from server.config import Config, EngineKind, Limits, ModelEntry
from server.direct.protocol import server_config
from server.store import open_store
from server.store.keys import hash_key
from server.store.records import OPERATOR, Engine, EngineState

KEY = "sk-test-0123456789abcdef0123456789abcdef"
ALIAS = "gpt-4o-mini-2024-07-18"
"""A further name of MODEL."""
SECOND_KEY = "sk-second-0123456789abcdef0123456789abcdef"
"""Of the same project."""
ADMIN_KEY = "sk-admin-0123456789abcdef0123456789abcdef"
MODEL = "scripted-model"
DEADLINE_S = 120.0
"""Ends a test that hangs. Nothing is concluded from how long something takes."""

REPLIES: list[dict[str, Any]] = [
    {"contains": "say hello", "tokens": ["Hello", " there", ",", " friend", "."]},
    {"contains": "say nothing", "text": ""},
    {"contains": " hm\n</think>", "tokens": ["Cut", " short", "."]},
    {
        "contains": " hm\n</think>",
        "grammar": "structural_tag",
        "fail": {"kind": "internal", "message": "The answer's grammar waits for a thought."},
    },
    {"contains": " hm\n</think>", "grammar": "choice", "text": "red"},
    {"contains": "think long", "tokens": ["<think>", "\n", *[" hm"] * 60]},
    {
        "contains": "think long",
        "grammar": "structural_tag",
        "tokens": ["<think>", "\n", *[" hm"] * 60],
    },
    {"contains": "think first", "text": "<think>\nhmm hmm\n</think>\n\nDone thinking."},
    {
        "contains": "weather tool",
        "tokens": [
            "<tool_call>",
            '\n{"name": "get_weather",',
            ' "arguments": {"city":',
            ' "Paris"',
            "}}",
            "\n</tool_call>",
        ],
    },
    {
        "contains": "weather tool",
        "grammar": "structural_tag",
        "text": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n'
        "</tool_call>",
    },
    {
        "contains": "two tools",
        "text": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
        '\n<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>',
    },
    {"contains": "slow stream", "tokens": ["tick "], "repeat": 400, "delay_ms": 25},
    {"contains": "many words", "tokens": ["word "], "repeat": 40},
    {"contains": "never end", "tokens": ["word "], "hangs": True},
    {"contains": "too long a wait", "tokens": ["late"], "first_token_ms": 900},
    {
        "contains": "refuse me",
        "fail": {"kind": "context_length_exceeded", "message": "Too long.", "param": "messages"},
    },
    {
        "contains": "break later",
        "tokens": ["a ", "b ", "c "],
        "fail": {"kind": "internal", "after_tokens": 2, "message": "secret detail"},
    },
    {"contains": "out of memory", "fail": {"kind": "out_of_memory", "message": "No memory."}},
    {"contains": "full queue", "fail": {"kind": "overloaded", "message": "Queue full."}},
    {
        "contains": 'quote "me',
        "tokens": ['a "quoted" ', "back\\slash ", "\u00e9\u4e2d\U0001f600\n", "\x01"],
    },
    {"contains": "json schema", "grammar": "structural_tag", "text": '{"name": "Ada", "age": 36}'},
    {"contains": "an object, please", "grammar": "structural_tag", "text": '{"ok": true}'},
    {"contains": "json object", "grammar": "structural_tag", "text": '{"ok": true}'},
    {
        "contains": "bad grammar",
        "grammar": "structural_tag",
        "fail": {"kind": "invalid_grammar", "message": "Bad regex."},
    },
    {"contains": "pick one", "grammar": "choice", "text": "red"},
    {"contains": "pick one", "grammar": "structural_tag", "text": "<think>\nhm\n</think>\n\nblue"},
]


@dataclass
class Worker:
    """One scripted engine process."""

    address: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(DEADLINE_S)


def start_worker(folder: Path, name: str, replies: list[dict[str, Any]], **settings: Any) -> Worker:
    """The worker is ready when its socket is there."""
    listen = folder / f"{name}.sock"
    spec = folder / f"{name}.json"
    spec.write_text(
        json.dumps(
            {
                "model_id": MODEL,
                "backend": "scripted",
                "listen": f"unix:{listen}",
                "max_num_seqs": 2048,
                "max_waiting": 4096,
                "settings": {"replies": replies, **settings},
            }
        )
    )
    process = subprocess.Popen([sys.executable, "-m", "workers.engine", "--spec", str(spec)])
    wait_for(listen.exists)
    return Worker(f"unix:{listen}", process)


def wait_for(condition: Any, deadline_s: float = DEADLINE_S) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline_s} s")
        time.sleep(0.01)


@dataclass
class Gateway:
    url: str
    config: Config
    app: GatewayApp
    server: uvicorn.Server
    thread: threading.Thread
    workers: list[Worker] = field(default_factory=list)
    clients: list[openai.OpenAI] = field(default_factory=list)
    """Those that were made, kept: a client that is collected unclosed may warn in another test."""

    def client(self, **settings: Any) -> openai.OpenAI:
        """Closed with the gateway, if not before."""
        client = openai.OpenAI(
            **{"base_url": f"{self.url}/v1", "api_key": KEY, "max_retries": 0, **settings}
        )
        self.clients.append(client)
        return client

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def num_under_way(self) -> int:
        return self.app.services.runner.num_under_way

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        self.server.should_exit = True
        self.thread.join(DEADLINE_S)


async def register(config: Config, workers: list[Worker], models: list[str]) -> None:
    """What the supervisor writes: the models and their engines."""
    config.data.mkdir(parents=True, exist_ok=True)
    store = await open_store(config.database_url)
    project = await store.projects.ensure("proj_test", "Acme")
    await store.keys.add(project.id, KEY, "test")
    await store.keys.add(project.id, SECOND_KEY, "second")
    if await store.admin_keys.find(hash_key(ADMIN_KEY)) is None:
        await store.admin_keys.add(ADMIN_KEY, "test", None, OPERATOR)
    for model in models:
        await store.models.put_base(model, "/nowhere", "tuneyard", 1_700_000_000)
    await store.aliases.configure(config.aliases)
    for number, worker in enumerate(workers):
        await store.engines.put(ready_engine(worker, number))
    await store.close()


def ready_engine(worker: Worker, number: int = 0) -> Engine:
    return Engine(
        id=f"engine-{number}",
        model_id=MODEL,
        address=worker.address,
        token=None,
        state=EngineState.READY,
        supervisor_id="test",
        pid=worker.process.pid,
        heartbeat_at=time.time() + 3600,
    )


async def put_engine(database_url: str, worker: Worker) -> None:
    """Of a gateway that runs in a process of its own."""
    store = await open_store(database_url)
    await store.engines.put(ready_engine(worker))
    await store.close()


def start_gateway(config: Config, workers: list[Worker], models: list[str]) -> Gateway:
    asyncio.run(register(config, workers, models))
    app = create_app(config)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    server = uvicorn.Server(server_config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    gateway = Gateway(f"http://127.0.0.1:{port}", config, app, server, thread, workers)
    wait_for(lambda: len(app.services.pool.connections()) == len(workers))
    return gateway


def make_config(data: Path, **settings: Any) -> Config:
    entries = (
        ModelEntry(
            id=MODEL,
            aliases=(ALIAS,),
            path="/nowhere",
            engine=EngineKind.SCRIPTED,
            template="qwen3",
        ),
        ModelEntry(id="asleep", path="/nowhere", engine=EngineKind.SCRIPTED, template="qwen3"),
    )
    return Config(data=data, models=entries, **settings)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Shared by tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("gw")
    worker = start_worker(folder, "engine", REPLIES)
    limits = Limits(max_body_bytes=200_000, keep_alive_s=0.6)
    running = start_gateway(make_config(folder, limits=limits), [worker], [MODEL, "asleep"])
    yield running
    running.stop()
    worker.stop()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with gateway.client() as opened:
        yield opened


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]
