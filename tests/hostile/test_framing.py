"""Heads, trailers and what stands between requests, as bytes."""

from __future__ import annotations

import contextlib
import json
import socket

import pytest

from tests.gateway.conftest import KEY, MODEL, user
from tests.gateway.raw import request_bytes
from tests.hostile.conftest import MB, Target, read_to_end, send_all

CHAT = "/v1/chat/completions"
HELLO = {"model": MODEL, "messages": user("say hello")}
_TRAILERS = b"".join(b"x-trailer-%d: %b\r\n" % (number, b"y" * 200) for number in range(300))


def chunked(*headers: str, key: str | None = KEY) -> bytes:
    """A whole chunked request but for the end of its trailers."""
    body = json.dumps(HELLO).encode()
    lines = [f"POST {CHAT} HTTP/1.1", "Host: t", "Transfer-Encoding: chunked", *headers]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode() + b"%x\r\n%b\r\n0\r\n" % (len(body), body)


@pytest.mark.parametrize("key", [KEY, None])
@pytest.mark.parametrize("piece", [_TRAILERS, b"y" * 65536], ids=["many", "one"])
def test_trailers_are_not_kept(target: Target, key: str | None, piece: bytes) -> None:
    with target.watch(max_growth_bytes=24 * MB), target.connect() as opened:
        opened.sendall(chunked(key=key) + (b"" if piece is _TRAILERS else b"x-long: "))
        assert not send_all(opened, 64 * MB // len(piece), piece)


def test_a_key_in_a_trailer_authenticates_nobody(target: Target) -> None:
    trailer = f"Authorization: Bearer {KEY}\r\n\r\n".encode()
    answer = target.exchange(chunked("Connection: close", key=None) + trailer)
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_a_trailer_changes_nothing(target: Target) -> None:
    answer = target.exchange(chunked("Connection: close") + b"Content-Type: a/b\r\nX: y\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_chunk_has_no_endless_extension(target: Target) -> None:
    head = chunked()
    with target.watch(max_growth_bytes=24 * MB), target.connect() as opened:
        opened.sendall(head[: head.index(b"\r\n\r\n") + 4] + b"5;")
        assert not send_all(opened, 256, b"x" * 65536)


@pytest.mark.parametrize("size", [70_000, 200_000])
@pytest.mark.parametrize("method", ["GET /v1/models", f"POST {CHAT}"])
def test_a_head_that_comes_at_once_has_the_same_limit(
    target: Target, size: int, method: str
) -> None:
    request = f"{method} HTTP/1.1\r\nHost: t\r\nX-Long: {'y' * size}\r\n\r\n".encode()
    with target.connect() as opened:
        opened.sendall(request)
        assert read_to_end(opened).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    ("request_line", "headers", "status", "code"),
    [
        (f"POST {CHAT} HTTP/2.0", "", 505, "http_version_not_supported"),
        ("GET /healthz HTTP/2.0", "", 505, "http_version_not_supported"),
        (f"POST {CHAT} HTTP/1.1", "Transfer-Encoding: gzip, chunked", 400,
         "unsupported_transfer_encoding"),
        (f"POST {CHAT} HTTP/1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400,
         None),
        ("GET /v1/models HTTP/1.1", "TE: gzip, chunked", 400, "unsupported_transfer_encoding"),
    ],
)  # fmt: skip
def test_what_is_not_plain_http_1_is_refused(
    target: Target, request_line: str, headers: str, status: int, code: str | None
) -> None:
    lines = [request_line, "Host: t", f"Authorization: Bearer {KEY}"]
    answer = target.exchange("\r\n".join([*lines, *filter(None, [headers]), "", ""]).encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["error"]["code"] == code


def test_the_preface_of_http_2_is_refused(target: Target) -> None:
    answer = target.exchange(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


def split_chunks(data: bytes) -> tuple[bytes, bytes]:
    """The body of a chunked response, and what follows it."""
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        body += data[:length]
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]
        if length == 0:
            return body, data


@pytest.mark.parametrize("garbage", [b"\x00\x01garbage\r\n\r\n", b"GET nowhere\r\n\r\n"])
@pytest.mark.parametrize("at_once", [True, False])
def test_what_follows_a_running_stream_is_answered_after_it(
    target: Target, garbage: bytes, at_once: bool
) -> None:
    fields = {"messages": user("slow stream"), "stream": True, "max_tokens": 20}
    request = request_bytes(CHAT, {**HELLO, **fields})
    with target.connect() as opened:
        opened.sendall(request + garbage if at_once else request)
        data = b""
        while b"tick" not in data:
            data += opened.recv(65536)
        if not at_once:
            opened.sendall(garbage)
        data += read_to_end(opened)
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    body, rest = split_chunks(rest)
    assert body.endswith(b"data: [DONE]\n\n")
    assert body.count(b'"tick ') == 20
    assert rest.startswith(b"HTTP/1.1 400 ")


def test_a_broken_body_is_answered_at_once(target: Target) -> None:
    head = chunked()
    broken = head[: head.index(b"\r\n\r\n") + 4] + b"zz\r\n"
    assert target.exchange(broken).startswith(b"HTTP/1.1 400 ")
    job = broken.replace(CHAT.encode(), b"/v1/fine_tuning/jobs")
    assert target.exchange(job).startswith(b"HTTP/1.1 400 ")


def test_pipelined_requests_have_a_limit(target: Target) -> None:
    listing = f"GET /v1/models HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
    with target.watch(max_growth_bytes=24 * MB), target.connect() as opened:
        with contextlib.suppress(ConnectionError):
            opened.sendall(listing * 20_000)
        data = read_to_end(opened)
    assert 1 <= data.count(b"HTTP/1.1 200 ") <= 100


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_ends_his_side_gets_his_answer(target: Target, stream: bool) -> None:
    fields = {"messages": user("slow stream"), "stream": stream, "max_tokens": 60}
    with target.connect() as opened:
        opened.sendall(request_bytes(CHAT, {**HELLO, **fields}))
        opened.shutdown(socket.SHUT_WR)
        data = read_to_end(opened)
    while data.startswith(b"HTTP/1.1 102 "):
        data = data.partition(b"\r\n\r\n")[2]
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.count(b"tick ") == 60
    assert data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if stream else b"}")


def test_a_caller_who_ends_his_side_of_another_request_gets_its_answer(target: Target) -> None:
    listing = f"GET /v1/models HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
    with target.connect() as opened:
        opened.sendall(listing)
        opened.shutdown(socket.SHUT_WR)
        assert b'"object":"list"' in read_to_end(opened)
