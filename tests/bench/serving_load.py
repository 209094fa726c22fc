"""Streams chat answers over HTTP and notes when each began and ended, at little cost of its own.

One protocol object a request and a connection of its own, read until the server closes it: the
same for every server, and the bytes are looked into no more than needed.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import time
from dataclasses import dataclass
from typing import Any, cast

_CONTENT = re.compile(rb'"content": ?"[^"]')
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens": ?(\d+)')
_WORDS = (
    "river", "stone", "cloud", "yellow", "music", "table", "seven", "window", "garden", "paper",
    "letter", "morning", "forest", "kitchen", "simple", "number", "animal", "travel", "winter",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server answers chat, and how it is asked there."""

    port: int
    model: str
    extras: dict[str, Any]
    """Fields of the request that only this server takes or needs."""
    key: str = "none"


@dataclass(frozen=True, slots=True)
class Round:
    tokens_per_s: float
    first_token_s: float
    """Median over the streams, as their callers see it."""


class LoadError(Exception):
    """A server did not answer as asked."""


def prompt(num_words: int) -> str:
    """Drawn anew for each request, so that no server finds it in a cache."""
    return " ".join(random.choice(_WORDS) for _ in range(num_words))


async def stream_many(target: Target, concurrency: int, num_words: int, num_tokens: int) -> Round:
    """`concurrency` answers at once, each of exactly `num_tokens` tokens."""
    loop = asyncio.get_running_loop()
    requests = [_request(target, prompt(num_words), num_tokens) for _ in range(concurrency)]
    started = time.perf_counter()
    answers = [
        protocol
        for _, protocol in await asyncio.gather(
            *(
                loop.create_connection(lambda body=body: _Answer(body), "127.0.0.1", target.port)
                for body in requests
            )
        )
    ]
    await asyncio.gather(*(answer.done for answer in answers))
    wall_s = time.perf_counter() - started
    for answer in answers:
        answer.check(num_tokens)
    return Round(
        concurrency * num_tokens / wall_s,
        statistics.median(answer.first_s - started for answer in answers),
    )


def _request(target: Target, text: str, num_tokens: int) -> bytes:
    body = json.dumps(
        {
            "model": target.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": num_tokens,
            "temperature": 0,
            "stream": True,
            **target.extras,
        }
    )
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Authorization: Bearer {target.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


class _Answer(asyncio.Protocol):
    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = bytearray()
        self.first_s = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.first_s and _CONTENT.search(self._received):
            self.first_s = time.perf_counter()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def check(self, num_tokens: int) -> None:
        """A server that reports usage must have given all tokens; any must have given text."""
        received = bytes(self._received)
        counts = _COMPLETION_TOKENS.findall(received)
        if (
            not received.startswith(b"HTTP/1.1 200")
            or not self.first_s
            or (counts and int(counts[-1]) != num_tokens)
        ):
            raise LoadError(f"{num_tokens} tokens asked, got: {received[-600:]!r}")
