"""Methods and paths: HEAD, the API document, and what OpenAI has and we have not."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from server.app import create_app
from server.config import Config
from server.unsupported import find_unsupported
from tests.gateway.conftest import KEY, MODEL, Gateway

HEADERS = {"authorization": f"Bearer {KEY}"}
LACKING = [
    ("POST", "/v1/responses/compact"),
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/moderations"),
    ("POST", "/v1/assistants"),
    ("POST", "/v1/threads/runs"),
    ("GET", "/v1/vector_stores"),
    ("POST", "/v1/realtime/sessions"),
    ("GET", "/v1/evals"),
    ("GET", "/v1/containers"),
    ("POST", "/v1/videos"),
    ("POST", "/v1/conversations"),
    ("POST", "/v1/live"),
    ("GET", "/v1/agents/none/sessions"),
]


@pytest.mark.parametrize(("method", "path"), LACKING)
def test_an_endpoint_that_only_openai_has_is_named(
    gateway: Gateway, method: str, path: str
) -> None:
    answer = httpx.request(method, gateway.url + path, headers=HEADERS)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["code"] == "unsupported_endpoint"
    assert error["message"].startswith(f"{method} {path}: ")


@pytest.mark.parametrize(
    "path", ["/v1/chat/completion", "/v1/respones", "/v1/batch", "/chat/completions", "/v1/audiox"]
)
def test_a_mistyped_path_is_an_invalid_url(gateway: Gateway, path: str) -> None:
    answer = httpx.post(gateway.url + path, headers=HEADERS)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == f"Invalid URL (POST {path})"
    assert answer.json()["error"]["code"] is None


def test_nothing_that_is_served_is_called_unsupported() -> None:
    paths = create_app(Config()).openapi()["paths"]
    assert len(paths) > 10
    for path in paths:
        assert find_unsupported("GET", re.sub(r"\{[^}]*\}", "x", path)) is None, path


@pytest.mark.parametrize(
    "path", ["/healthz", "/metrics", "/docs", "/docs/swagger-ui.css", "/openapi.json"]
)
def test_head_is_get_without_a_body(gateway: Gateway, path: str) -> None:
    head, get = httpx.head(gateway.url + path), httpx.get(gateway.url + path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]
    if path != "/metrics":
        assert int(head.headers["content-length"]) == len(get.content)


@pytest.mark.parametrize("path", ["/v1/models", f"/v1/models/{MODEL}", "/v1/files"])
def test_head_needs_the_key_that_get_needs(gateway: Gateway, path: str) -> None:
    assert httpx.head(gateway.url + path, headers=HEADERS).status_code == 200
    assert httpx.head(gateway.url + path).status_code == 401


def test_head_of_what_is_not_there_is_not_found(gateway: Gateway) -> None:
    for path, status in (("/v1/models/none", 404), ("/v1/nowhere", 404), ("/v1/embeddings", 405)):
        assert httpx.head(gateway.url + path, headers=HEADERS).status_code == status


def test_one_connection_goes_on_after_a_head(gateway: Gateway) -> None:
    with httpx.Client(base_url=gateway.url, headers=HEADERS) as client:
        for method in ("HEAD", "GET", "HEAD", "GET"):
            answer = client.request(method, "/v1/models")
            assert answer.status_code == 200
            assert bool(answer.content) == (method == "GET")


def test_a_refused_method_is_told_which_there_are(gateway: Gateway) -> None:
    answer = httpx.put(f"{gateway.url}/v1/models", headers=HEADERS)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


def test_the_page_of_the_document_loads_nothing_from_elsewhere(gateway: Gateway) -> None:
    page = httpx.get(f"{gateway.url}/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(loaded) == 3
    assert re.findall(r"url: '([^']*)'", page.text) == ["/openapi.json"]
    for path in loaded:
        assert path.startswith("/docs/")
        answer = httpx.get(gateway.url + path)
        assert answer.status_code == 200
        assert answer.content
    assert httpx.get(f"{gateway.url}/openapi.json").json()["openapi"].startswith("3.1")


def test_the_document_that_is_served_is_the_written_one(gateway: Gateway, tmp_path: Path) -> None:
    served = httpx.get(f"{gateway.url}/openapi.json").json()
    assert served == create_app(Config()).openapi()
