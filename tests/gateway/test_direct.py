"""The HTTP of generating requests, which do not go through the ASGI cycle: byte by byte."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

import pytest

from tests.gateway.conftest import KEY, MODEL, Gateway, user, wait_for
from tests.gateway.raw import connect, post, read_until, request_bytes

CHAT = "/v1/chat/completions"
HELLO = {"model": MODEL, "messages": user("say hello")}
LISTING = f"GET /v1/models HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()


def asking(**fields: Any) -> bytes:
    return request_bytes(CHAT, {**HELLO, **fields})


def read_answer(opened: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of one response with a length."""
    head, _, body = read_until(opened, b"\r\n\r\n").partition(b"\r\n\r\n")
    size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < size:
        body += opened.recv(65536)
    assert len(body) == size
    return head, body


def test_one_connection_carries_direct_and_other_requests_in_turn(gateway: Gateway) -> None:
    with connect(gateway) as opened:
        for request in (asking(), LISTING, asking(), LISTING):
            opened.sendall(request)
            head, body = read_answer(opened)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\ndate: " in head
            assert json.loads(body)


def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    with connect(gateway) as opened:
        opened.sendall(asking() + LISTING + asking(n=2) + LISTING + asking(n=3))
        data = b""
        while data.count(b"HTTP/1.1 200") < 5 or not data.endswith(b"}"):
            data += opened.recv(65536)
    kinds = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in data.split(b"HTTP/1.1 200")[1:]]
    assert [len(kind.get("choices", ())) for kind in kinds] == [1, 0, 2, 0, 3]


@pytest.mark.parametrize("cut", [1, 40, 120, 150, 180, 200])
def test_a_request_may_come_in_pieces(gateway: Gateway, cut: int) -> None:
    request = asking()
    with connect(gateway) as opened:
        opened.sendall(request[:cut])
        time.sleep(0.02)
        opened.sendall(request[cut:])
        _, body = read_answer(opened)
    assert json.loads(body)["choices"][0]["message"]["content"] == "Hello there, friend."


def test_a_caller_who_expects_to_be_told_is_told_to_continue(gateway: Gateway) -> None:
    body = json.dumps(HELLO).encode()
    head = request_bytes(CHAT, HELLO, "Expect: 100-continue")[: -len(body)]
    with connect(gateway) as opened:
        opened.sendall(head)
        assert read_until(opened, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        opened.sendall(body)
        assert read_answer(opened)[0].startswith(b"HTTP/1.1 200")


def test_a_caller_without_a_key_is_refused_before_the_body(gateway: Gateway) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    with connect(gateway) as opened:
        opened.sendall(head.encode())
        answer, body = read_answer(opened)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert json.loads(body)["error"]["code"] == "invalid_api_key"


def test_http_1_0_gets_a_plain_body_and_a_closed_connection(gateway: Gateway) -> None:
    for stream in (False, True):
        request = asking(stream=stream).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        with connect(gateway) as opened:
            opened.sendall(request)
            data = read_until(opened, b"nothing that comes: read to the end")
        assert b"connection: close" in data
        assert b"transfer-encoding" not in data
        assert data.endswith(b"data: [DONE]\n\n" if stream else b"}")


def test_connection_close_is_honoured(gateway: Gateway) -> None:
    with connect(gateway) as opened:
        opened.sendall(request_bytes(CHAT, HELLO, "Connection: close"))
        data = read_until(opened, b"nothing that comes: read to the end")
    assert b"connection: close" in data
    assert data.endswith(b"}")


@pytest.mark.parametrize("path", [f"{CHAT}?x=1", "/v1/chat%2Fcompletions", f"http://t{CHAT}"])
def test_other_spellings_of_the_path_are_the_same_path(gateway: Gateway, path: str) -> None:
    with connect(gateway) as opened:
        opened.sendall(request_bytes(path, HELLO))
        assert read_answer(opened)[0].startswith(b"HTTP/1.1 200")


def test_another_method_is_refused(gateway: Gateway) -> None:
    with connect(gateway) as opened:
        opened.sendall(LISTING.replace(b"/v1/models", b"/v1/completions"))
        head, body = read_answer(opened)
    assert head.startswith(b"HTTP/1.1 405 ")
    assert json.loads(body)["error"]["code"] == "method_not_supported"


def test_what_is_not_http_is_refused_as_everything_is(gateway: Gateway) -> None:
    with connect(gateway) as opened:
        opened.sendall(b"POST " + CHAT.encode() + b" HTTP/1.1\r\nContent-Length: minus\r\n\r\n")
        head, body = read_answer(opened)
        assert opened.recv(1) == b""
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nx-request-id: req_" in head
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("ends", [b"", b": "])
def test_a_head_without_an_end_is_not_read_for_ever(gateway: Gateway, ends: bytes) -> None:
    with connect(gateway) as opened:
        opened.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nX-Long" + ends)
        with contextlib.suppress(ConnectionError):  # it may be closed while we still write
            for _ in range(64):
                opened.sendall(b"y" * 65536)
        with contextlib.suppress(ConnectionError):
            head, _ = read_answer(opened)
            assert head.startswith(b"HTTP/1.1 431 ")
            return
    # The answer was lost to what we had still under way; the connection is closed all the same.


def test_hanging_up_in_the_middle_of_the_body_leaves_nothing(gateway: Gateway) -> None:
    answers, lost = gateway.app.access_log.answers, ("POST", CHAT, 499)
    before = answers[lost]
    with connect(gateway) as opened:
        opened.sendall(asking()[:-10])
        time.sleep(0.05)
    wait_for(lambda: answers[lost] == before + 1)
    assert post(gateway, CHAT, HELLO).status_code == 200


def test_hanging_up_aborts_all_that_was_pipelined(gateway: Gateway) -> None:
    connection = gateway.app.services.pool.connections(MODEL)[0]
    wait_for(lambda: connection.load == 0)
    with connect(gateway) as opened:
        endless = {"model": MODEL, "messages": user("never end"), "stream": True}
        opened.sendall(request_bytes(CHAT, endless) + asking())
        read_until(opened, b"word")
    wait_for(lambda: connection.load == 0)
    assert gateway.num_under_way == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_only_seems_to_wait_is_gone(gateway: Gateway, stream: bool) -> None:
    """To the gateway, a caller who has closed his socket looks like one who has sent all that he
    has to send. Nothing more is generated, so no write would tell."""
    connection = gateway.app.services.pool.connections(MODEL)[0]
    wait_for(lambda: connection.load == 0)
    with connect(gateway) as opened:
        endless = {"model": MODEL, "messages": user("never end"), "stream": stream}
        opened.sendall(request_bytes(CHAT, endless))
        wait_for(lambda: connection.load == 1)
        if stream:
            read_until(opened, b"word")
    wait_for(lambda: connection.load == 0)
    assert gateway.num_under_way == 0


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
@pytest.mark.parametrize("cut", [None, -10, -400])
def test_an_offer_to_upgrade_is_ignored(gateway: Gateway, upgrade: str, cut: int | None) -> None:
    """As curl's `--http2` makes it. What follows on the connection is served as ever."""
    offer = (f"Upgrade: {upgrade}", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAM")
    padded = {**HELLO, "metadata": {"padding": "x" * 400}}
    request = request_bytes(CHAT, padded, *offer)
    listing = LISTING.replace(b"Host: t", f"Host: t\r\n{offer[0]}\r\n{offer[1]}".encode())
    with connect(gateway) as opened:
        for _ in range(2):
            opened.sendall(request[:cut])
            if cut is not None:
                time.sleep(0.02)
                opened.sendall(request[cut:])
            head, body = read_answer(opened)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert json.loads(body)["choices"][0]["message"]["content"] == "Hello there, friend."
        opened.sendall(listing + asking())
        data = read_until(opened, b'"object":"chat.completion"')
        assert data.count(b"HTTP/1.1 200 ") == 2
        assert data.index(b'"object":"list"') < data.index(b'"object":"chat.completion"')


def test_no_tunnel_is_made(gateway: Gateway) -> None:
    with connect(gateway) as opened:
        opened.sendall(b"CONNECT example.com:80 HTTP/1.1\r\nHost: example.com\r\n\r\n")
        assert read_until(opened, b"\r\n").startswith(b"HTTP/1.1 400 ")
