"""Bodies in a content encoding, and bodies that never end."""

from __future__ import annotations

import gzip
import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.gateway.conftest import KEY, MODEL, user
from tests.hostile.conftest import MB, Target, send_all

CHAT, JOBS = "/v1/chat/completions", "/v1/fine_tuning/jobs"
HELLO = json.dumps({"model": MODEL, "messages": user("say hello")}).encode()
BOMB = gzip.compress(b'{"model": "' + b"a" * 256 * MB + b'"}')
"""A quarter of a megabyte that is a thousand times larger when decoded."""


def post(target: Target, path: str, body: bytes, *headers: str) -> tuple[int, dict[str, Any]]:
    lines = [f"POST {path} HTTP/1.1", "Host: t", f"Authorization: Bearer {KEY}"]
    lines += ["Connection: close", f"Content-Length: {len(body)}", *headers, "", ""]
    answer = target.exchange("\r\n".join(lines).encode() + body)
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(rest)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(HELLO)),
        ("X-GZIP", gzip.compress(HELLO)),
        ("deflate", zlib.compress(HELLO)),
        ("identity", HELLO),
    ],
    ids=["gzip", "X-GZIP", "deflate", "identity"],
)
def test_an_encoded_body_is_decoded(target: Target, encoding: str, body: bytes) -> None:
    status, answer = post(target, CHAT, body, f"Content-Encoding: {encoding}")
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "Hello there, friend."


def test_an_encoded_body_of_another_endpoint_is_decoded(target: Target) -> None:
    body = gzip.compress(json.dumps({"model": MODEL, "training_file": "file-none"}).encode())
    status, answer = post(target, JOBS, body, "Content-Encoding: gzip")
    assert status == 400
    assert answer["error"]["param"] == "model"


@pytest.mark.parametrize("path", [CHAT, JOBS])
@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", HELLO, 415),
        ("gzip, gzip", gzip.compress(gzip.compress(HELLO)), 415),
        ("gzip", HELLO, 400),
        ("gzip", gzip.compress(HELLO)[:-9], 400),
        ("gzip", gzip.compress(HELLO) + b"more", 400),
        ("gzip", b"", 400),
    ],
    ids=["unknown", "twice", "plain", "cut", "followed", "empty"],
)
def test_what_cannot_be_decoded_is_refused(
    target: Target, path: str, encoding: str, body: bytes, status: int
) -> None:
    got, answer = post(target, path, body, f"Content-Encoding: {encoding}")
    assert got == status
    assert answer["error"]["type"] == "invalid_request_error"
    if status == 415:
        assert answer["error"]["code"] == "unsupported_content_encoding"


def test_an_encoded_upload_is_refused(target: Target) -> None:
    status, _ = post(
        target,
        "/v1/files",
        gzip.compress(b"x"),
        "Content-Encoding: gzip",
        "Content-Type: multipart/form-data; boundary=x",
    )
    assert status == 415


@pytest.mark.parametrize("path", [CHAT, JOBS])
def test_bodies_that_grow_when_decoded_are_let_go_one_after_the_other(
    target: Target, path: str
) -> None:
    with target.watch(max_growth_bytes=128 * MB), ThreadPoolExecutor(16) as callers:
        asked = [
            callers.submit(post, target, path, BOMB, "Content-Encoding: gzip") for _ in range(16)
        ]
        for answer in asked:
            status, body = answer.result()
            assert status == 413
            assert body["error"]["code"] == "request_too_large"


def test_a_chunked_body_has_the_same_limit(target: Target) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {KEY}\r\n"
    with target.watch(max_growth_bytes=128 * MB), target.connect() as opened:
        opened.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"100000\r\n" + b" " * MB + b"\r\n"
        assert not send_all(opened, 256, chunk)
