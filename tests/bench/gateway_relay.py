"""The plain relay to compare with: FastAPI, httpx and sse-starlette, as a careful developer
writes a gateway with them.

It does what the gateway does for a request: looks the key up by its hash, validates the body,
answers under an id of its own and the name the caller asked for, counts tokens and writes a usage
row for each request (to SQLite, in batches). Per record it parses what the engine sent, checks it
against a model, rewrites id and model, counts, and hands one event to `EventSourceResponse`. Not
done: chat templates, tool calls, limits.

`uvicorn --factory tests.bench.gateway_relay:create_relay`, with `ENGINE_URL` in the environment.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import uuid4

import httpx
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel
from sse_starlette import EventSourceResponse

KEY = "sk-bench-0123456789abcdef0123456789abcdef"
FLUSH_INTERVAL_S = 0.5


class Message(BaseModel):
    role: str
    content: str


class Body(BaseModel):
    model: str
    messages: list[Message]
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None


class Delta(BaseModel):
    role: str | None = None
    content: str | None = None


class Choice(BaseModel):
    index: int
    delta: Delta
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None


class Chunk(BaseModel):
    id: str
    object: str
    created: int
    model: str
    choices: list[Choice]


class Usage:
    """Rows of what requests cost, written a few times a second."""

    def __init__(self) -> None:
        self._database = sqlite3.connect(
            os.path.join(tempfile.mkdtemp(prefix="relay-"), "usage.db"), check_same_thread=False
        )
        self._database.execute("create table usage (at real, key text, model text, tokens int)")
        self._rows: list[tuple[float, str, str, int]] = []

    def add(self, key: str, model: str, tokens: int) -> None:
        self._rows.append((time.time(), key, model, tokens))

    async def keep_writing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            rows, self._rows = self._rows, []
            await asyncio.to_thread(self._write, rows)

    def _write(self, rows: list[tuple[float, str, str, int]]) -> None:
        with self._database:
            self._database.executemany("insert into usage values (?, ?, ?, ?)", rows)


def create_relay() -> FastAPI:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=1024)
    client = httpx.AsyncClient(base_url=os.environ["ENGINE_URL"], limits=limits, timeout=60)
    keys = {hashlib.sha256(KEY.encode()).hexdigest(): "key-1"}
    usage = Usage()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        writer = asyncio.create_task(usage.keep_writing())
        yield
        writer.cancel()
        await client.aclose()

    app = FastAPI(lifespan=lifespan)

    def find_key(authorization: Annotated[str, Header()]) -> str:
        key = keys.get(hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest())
        if key is None:
            raise HTTPException(401)
        return key

    @app.post("/v1/chat/completions")
    async def chat(body: Body, key: str = Depends(find_key)) -> Any:
        answer_id = f"chatcmpl-{uuid4().hex}"
        if body.stream:
            return EventSourceResponse(relay(body, key, answer_id))
        response = await client.post(
            "/v1/chat/completions", json=body.model_dump(exclude_none=True)
        )
        answer = response.json()
        usage.add(key, body.model, answer["usage"]["total_tokens"])
        return {**answer, "id": answer_id, "model": body.model}

    async def relay(body: Body, key: str, answer_id: str) -> AsyncIterator[str]:
        tokens = 0
        request = client.stream(
            "POST", "/v1/chat/completions", json=body.model_dump(exclude_none=True)
        )
        async with request as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    break
                chunk = Chunk.model_validate(json.loads(line[6:]))
                chunk.id, chunk.model = answer_id, body.model
                tokens += 1
                yield chunk.model_dump_json()
        usage.add(key, body.model, tokens)
        yield "[DONE]"

    return app
