"""`openapi.yaml` names every status that an operation sends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from server.app import create_app
from server.auth import ADMINISTRATION
from server.config import Config
from tests.gateway.conftest import ADMIN_KEY, DEADLINE_S, KEY, MODEL, Gateway
from tests.gateway.raw import connect, read_until

PATHS: dict[str, dict[str, Any]] = create_app(Config()).openapi()["paths"]
OPERATIONS = [
    (method.upper(), path)
    for path, methods in PATHS.items()
    if path.startswith("/v1")
    for method in methods
]


def attempts(method: str, path: str) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """Requests that are wrong in every way that an operation can meet, with the status that must
    come where one must."""
    yield 401, {"headers": {}}
    authorized = {"authorization": f"Bearer {key_of(path)}"}
    if key_of(path) == ADMIN_KEY:
        yield 403, {"headers": {"authorization": f"Bearer {KEY}"}}
    yield None, {"headers": authorized}
    yield None, {"headers": authorized, "params": {"limit": "many", "order": "none", "after": "x"}}
    operation = PATHS[path][method.lower()]
    if "requestBody" in operation:
        wrong = None if "{" in path else 400  # what is not there may be noticed first
        yield wrong, {"headers": authorized, "content": b"{"}
        yield wrong, {"headers": authorized, "json": {"model": 1}}
        yield None, {"headers": authorized, "json": {"model": "none"}}
        encoded = {"content-encoding": "br", "content-type": content_type(operation)}
        yield 415, {"headers": authorized | encoded, "content": b"x"}


def key_of(path: str) -> str:
    return ADMIN_KEY if path.startswith(ADMINISTRATION) else KEY


def content_type(operation: dict[str, Any]) -> str:
    kind = next(iter(operation["requestBody"]["content"]))
    return f"{kind}; boundary=x" if kind.startswith("multipart") else kind


def concrete(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "none", path)


def announce_too_much(gateway: Gateway, path: str) -> bytes:
    """The status line after a head that announces a body beyond every limit."""
    head = f"POST {path} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {key_of(path)}\r\n"
    with connect(gateway) as opened:
        opened.sendall(f"{head}Content-Length: {10**10}\r\n\r\n".encode())
        return read_until(opened, b"\r\n")


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_is_sent_is_documented(gateway: Gateway, method: str, path: str) -> None:
    documented = PATHS[path][method.lower()]["responses"]
    for expected, settings in attempts(method, path):
        url = gateway.url + concrete(path)
        answer = httpx.request(method, url, timeout=DEADLINE_S, **settings)
        status = str(answer.status_code)
        assert status in documented, (settings, answer.text)
        if expected is not None:
            assert status == str(expected), (settings, answer.text)
        if answer.status_code >= 400:
            is_message = path.startswith("/v1/messages")
            more = set() if is_message else {"param", "code"}
            assert set(answer.json()["error"]) == {"message", "type"} | more
            schema = documented[status]["content"]["application/json"]["schema"]
            name = "MessageErrorBody" if is_message else "ErrorBody"
            assert schema == {"$ref": f"#/components/schemas/{name}"}
    if "{" in path and "requestBody" not in PATHS[path][method.lower()]:
        headers = {"authorization": f"Bearer {key_of(path)}"}
        missing = httpx.request(method, gateway.url + concrete(path), headers=headers)
        assert missing.status_code == 404
    if "requestBody" in PATHS[path][method.lower()]:
        assert announce_too_much(gateway, path).startswith(b"HTTP/1.1 413 ")
        assert "413" in documented


def test_a_model_of_the_configuration_is_not_deleted(gateway: Gateway) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.delete(f"{gateway.url}/v1/models/{MODEL}", headers=headers)
    assert answer.status_code == 403
    assert "403" in PATHS["/v1/models/{model}"]["delete"]["responses"]
