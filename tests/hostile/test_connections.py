"""Connections that are many, silent or slow."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from typing import Any

import pytest

from tests.gateway.conftest import KEY, MODEL, user, wait_for
from tests.gateway.raw import read_until, request_bytes
from tests.hostile.conftest import SHORT, StartTarget, Target, read_to_end

CHAT = "/v1/chat/completions"
ENDLESS = request_bytes(CHAT, {"model": MODEL, "messages": user("never end"), "stream": True})
UPLOAD = (
    f"POST /v1/files HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {KEY}\r\n"
    "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n"
    '--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{"a'
).encode()


def open_many(stack: ExitStack, target: Target, count: int, first: bytes) -> list[socket.socket]:
    opened: list[socket.socket] = []
    for _ in range(count):
        connection = stack.enter_context(target.connect())
        connection.sendall(first)
        opened.append(connection)
    return opened


@pytest.fixture(scope="module")
def small(start: StartTarget) -> Target:
    """As many files may be open as an old system allows."""
    return start(max_files=256)


@pytest.mark.parametrize("first", [b"", b"POST /v1/chat/comp"], ids=["silent", "part of a head"])
def test_connections_without_a_request_shut_nobody_out(small: Target, first: bytes) -> None:
    with ExitStack() as stack:
        open_many(stack, small, 300, first)
        with small.watch():
            open_many(stack, small, 300, first)
            assert small.get("/healthz").startswith(b"HTTP/1.1 200 ")
    assert small.metric('tuneyard_connections_ended_total{reason="made_room"}') > 0


def test_connections_that_keep_alive_make_room(small: Target) -> None:
    request = SHORT.replace(b"Connection: close\r\n", b"")
    with ExitStack() as stack:
        for connection in open_many(stack, small, 300, request):
            assert read_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.fixture(scope="module")
def full(start: StartTarget) -> Target:
    return start(max_connections=8)


def test_a_full_gateway_says_so_and_answers_its_probes(full: Target) -> None:
    with ExitStack() as stack:
        for stream in open_many(stack, full, 8, ENDLESS):
            assert b"word" in read_until(stream, b"word")
        refused = full.exchange(SHORT)
        head, _, body = refused.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in head
        assert json.loads(body)["error"]["code"] == "server_is_overloaded"
        for _ in range(3):
            assert full.get("/healthz").startswith(b"HTTP/1.1 200 ")
        open_many(stack, full, 100, b"")
        assert full.get("/healthz").startswith(b"HTTP/1.1 200 ")
        assert full.metric('tuneyard_connections_ended_total{reason="refused"}') >= 1
        assert "connections were ended by the gateway" in full.log.read_text()
    wait_for(lambda: full.exchange(SHORT).startswith(b"HTTP/1.1 200 "))


@pytest.fixture(scope="module")
def strict(start: StartTarget) -> Target:
    return start(head_timeout_s=1.0, body_timeout_s=1.0, send_timeout_s=1.0)


def code_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]


def test_a_silent_connection_is_closed(strict: Target) -> None:
    with strict.watch(), strict.connect() as opened:
        assert read_to_end(opened) == b""


@pytest.mark.parametrize("part", [b"P", SHORT[:60]])
def test_a_head_that_does_not_go_on_is_a_408(strict: Target, part: bytes) -> None:
    with strict.watch():
        answer = strict.exchange(part)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nconnection: close\r\n" in answer
    assert code_of(answer) == "request_timeout"


@pytest.mark.parametrize("path", [CHAT, "/v1/fine_tuning/jobs", "/v1/files"])
def test_a_body_that_does_not_go_on_is_a_408(strict: Target, path: str) -> None:
    part = UPLOAD if path == "/v1/files" else SHORT.replace(CHAT.encode(), path.encode())[:-10]
    with strict.watch():
        answer = strict.exchange(part)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert code_of(answer) == "request_timeout"


def test_a_body_that_nobody_may_send_is_not_waited_for(strict: Target) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n".encode()
    with strict.watch():
        assert strict.exchange(head).startswith(b"HTTP/1.1 401 ")


def test_a_whole_request_is_answered_before_the_part_of_one_behind_it(strict: Target) -> None:
    with strict.connect() as opened:
        opened.sendall(SHORT.replace(b"Connection: close\r\n", b"") + b"POST ")
        data = read_to_end(opened)
    first, second = data.index(b"HTTP/1.1 200 "), data.index(b"HTTP/1.1 408 ")
    assert first < second


def test_an_answer_that_nobody_takes_is_not_kept_for_ever(strict: Target) -> None:
    listing = f"GET /openapi.json HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    with strict.watch(), socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect(("127.0.0.1", strict.port))
        opened.sendall(listing.encode() * 60)
        metric = 'tuneyard_connections_ended_total{reason="send_timeout"}'
        wait_for(lambda: strict.metric(metric) == 1)
