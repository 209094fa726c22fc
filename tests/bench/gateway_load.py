"""Callers that cost little: one protocol object per connection, counting bytes as they come."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import cast

from tests.bench.gateway_relay import KEY

_RECORD = b'"content":" word"'
"""Stands once in each record of a stream that carries a token."""


@dataclass
class Outcome:
    chunks: int = 0
    """Records that carry a token, however many of them came in one piece."""
    requests: int = 0
    errors: int = 0
    wall_s: float = 0.0


def request_bytes(text: str, *, stream: bool) -> bytes:
    body = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream}
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Caller(asyncio.Protocol):
    def __init__(self, request: bytes, times: int, mark: bytes, outcome: Outcome) -> None:
        self._request = request
        self._left = times
        self._mark = mark
        self._outcome = outcome
        self._tail = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if b"HTTP/1.1 " in data and b"HTTP/1.1 200" not in data:
            self._outcome.errors += 1
        joined = self._tail + data
        self._outcome.chunks += joined.count(_RECORD) - self._tail.count(_RECORD)
        self._tail = joined[-64:]
        if self._mark in joined:
            self._tail = b""
            self._outcome.requests += 1
            self._left -= 1
            if self._left > 0:
                self.transport.write(self._request)
            else:
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._left > 0:
            self._outcome.errors += 1
        if not self.done.done():
            self.done.set_result(None)


async def load(port: int, callers: int, times: int, text: str, *, stream: bool) -> Outcome:
    """`callers` connections, each asking `times` times, one after the other."""
    outcome = Outcome()
    request = request_bytes(text, stream=stream)
    mark = b"[DONE]" if stream else b'"usage"'
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    connected = await asyncio.gather(
        *(
            loop.create_connection(
                lambda: _Caller(request, times, mark, outcome), "127.0.0.1", port
            )
            for _ in range(callers)
        )
    )
    await asyncio.gather(*(caller.done for _, caller in connected))
    outcome.wall_s = time.perf_counter() - started
    return outcome
