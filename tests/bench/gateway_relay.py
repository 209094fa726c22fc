"""The plain relay to compare with: FastAPI, httpx and sse-starlette, as one would first write it.

`uvicorn --factory tests.bench.gateway_relay:create_relay`, with `ENGINE_URL` in the environment.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel
from sse_starlette import EventSourceResponse

KEY = "sk-bench-0123456789abcdef0123456789abcdef"


class Message(BaseModel):
    role: str
    content: str


class Body(BaseModel):
    model: str
    messages: list[Message]
    stream: bool = False


def check_key(authorization: str = Header()) -> None:
    if authorization != f"Bearer {KEY}":
        raise HTTPException(401)


def create_relay() -> FastAPI:
    app = FastAPI()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=1024)
    client = httpx.AsyncClient(base_url=os.environ["ENGINE_URL"], limits=limits, timeout=60)
    tokens = {"count": 0}

    @app.post("/v1/chat/completions", dependencies=[Depends(check_key)])
    async def chat(body: Body) -> Any:
        if not body.stream:
            answer = await client.post("/v1/chat/completions", json=body.model_dump())
            tokens["count"] += answer.json()["usage"]["total_tokens"]
            return answer.json()
        return EventSourceResponse(relay(body))

    async def relay(body: Body) -> AsyncIterator[str]:
        request = client.stream("POST", "/v1/chat/completions", json=body.model_dump())
        async with request as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    tokens["count"] += 1
                    yield line[6:]

    return app
