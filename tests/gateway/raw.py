"""Bytes in, bytes out: what a client library would hide."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any

import httpx

from tests.gateway.conftest import DEADLINE_S, KEY, Gateway


@dataclass
class Refusal:
    status: int
    code: str | None
    param: str | None
    message: str
    type: str


def post(gateway: Gateway, path: str, content: Any, key: str | None = KEY) -> httpx.Response:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = {"content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    return httpx.post(f"{gateway.url}{path}", content=data, headers=headers, timeout=DEADLINE_S)


def refusal(gateway: Gateway, path: str, content: Any) -> Refusal:
    response = post(gateway, path, content)
    body = response.json()
    assert set(body) == {"error"}, body
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    assert response.headers["x-request-id"].startswith("req_")
    return Refusal(
        response.status_code, error["code"], error["param"], error["message"], error["type"]
    )


def request_bytes(path: str, body: Any, *headers: str) -> bytes:
    data = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: test",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + data


def connect(gateway: Gateway) -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", gateway.port), timeout=DEADLINE_S)
    return opened


def read_until(opened: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        piece = opened.recv(65536)
        if not piece:
            break
        data += piece
    return data
