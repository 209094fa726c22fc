"""Answers that nobody reads, or that are too large to be kept."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.gateway.conftest import MODEL, user, wait_for
from tests.gateway.raw import read_until, request_bytes
from tests.hostile.conftest import MB, StartTarget, Target

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
REPLIES: list[dict[str, Any]] = [
    {"contains": "pour", "tokens": ["word "], "repeat": 100_000, "delay_ms": 2},
    {"contains": "say hello", "text": "hello"},
]
LIMIT = 4 * MB


@pytest.fixture(scope="module")
def pouring(start: StartTarget) -> Target:
    return start(REPLIES, max_unread_bytes=LIMIT, max_answer_bytes=LIMIT)


def wide(stream: bool, path: str = CHAT) -> dict[str, Any]:
    if path == CHAT:
        fields = {"messages": user("pour"), "logprobs": True, "top_logprobs": 20}
    else:
        fields = {"prompt": "pour", "logprobs": 5}
    return {"model": MODEL, "n": 128, "max_tokens": 20_000, "stream": stream, **fields}


def under_way(target: Target) -> float:
    return target.metric("tuneyard_engine_requests{")


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_stream_that_nobody_reads_is_ended(pouring: Target, path: str) -> None:
    ended = 'tuneyard_connections_ended_total{reason="unread"}'
    before = pouring.metric(ended)
    with pouring.watch(max_growth_bytes=64 * MB), socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect(("127.0.0.1", pouring.port))
        opened.sendall(request_bytes(path, wide(True, path)))
        wait_for(lambda: pouring.metric(ended) == before + 1)
        wait_for(lambda: under_way(pouring) <= 1)


def test_a_stream_that_is_read_may_be_larger(pouring: Target) -> None:
    with pouring.watch(max_growth_bytes=64 * MB), pouring.connect() as opened:
        opened.sendall(request_bytes(CHAT, wide(True)))
        size = 0
        while size < 4 * LIMIT:
            piece = opened.recv(1024 * 1024)
            assert piece
            size += len(piece)
    wait_for(lambda: under_way(pouring) <= 1)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_an_answer_that_is_kept_has_a_limit(pouring: Target, path: str) -> None:
    with pouring.watch(max_growth_bytes=64 * MB), pouring.connect() as opened:
        opened.sendall(request_bytes(path, wide(False, path), "Connection: close"))
        answer = read_until(opened, b"nothing that comes: read to the end")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "answer_too_large"
    wait_for(lambda: under_way(pouring) <= 1)
