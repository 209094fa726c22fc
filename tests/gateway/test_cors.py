"""What a browser is told about who may call the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from server.config import Cors
from server.cors import CorsPolicy
from tests.gateway.conftest import KEY, MODEL, Gateway, make_config, start_gateway, user

CHAT = "/v1/chat/completions"
HERE = "http://localhost:5173"


def ask(
    gateway: Gateway, origin: str | None, method: str = "POST", key: str = KEY
) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    if origin is not None:
        headers["origin"] = origin
    if method == "GET":
        return httpx.get(f"{gateway.url}/v1/models", headers=headers)
    body = {"model": MODEL, "messages": user("say hello")}
    return httpx.post(f"{gateway.url}{CHAT}", json=body, headers=headers)


def preflight(gateway: Gateway, origin: str, path: str = CHAT) -> httpx.Response:
    wanted = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }
    return httpx.options(f"{gateway.url}{path}", headers=wanted)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("origin", [HERE, "http://127.0.0.1:3000", "https://[::1]"])
def test_pages_of_this_machine_may_call_a_service_for_this_machine(
    gateway: Gateway, method: str, origin: str
) -> None:
    answer = ask(gateway, origin, method)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["vary"] == "Origin"
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "retry-after", "x-ratelimit-remaining-tokens"} <= set(exposed)
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "origin",
    [None, "null", "https://example.com", "http://localhost.example.com", "http://127.0.0.1.a.com"],
)
def test_other_pages_may_not(gateway: Gateway, method: str, origin: str | None) -> None:
    answer = ask(gateway, origin, method)
    assert not [name for name in answer.headers if name.startswith("access-control")]
    if origin is not None:
        refused = preflight(gateway, origin)
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("path", [CHAT, "/v1/files", "/v1/nowhere"])
def test_a_preflight_needs_no_key(gateway: Gateway, path: str) -> None:
    answer = preflight(gateway, HERE, path)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == HERE
    assert "POST" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"]
    assert allowed == "authorization,content-type,x-stainless-lang"
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_page_can_read_a_refusal(gateway: Gateway, method: str) -> None:
    answer = ask(gateway, HERE, method, key="sk-wrong")
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == HERE


def test_what_needs_no_key_is_not_opened_to_pages(gateway: Gateway) -> None:
    for path in ("/healthz", "/metrics", "/openapi.json"):
        answer = httpx.get(f"{gateway.url}{path}", headers={"origin": HERE})
        assert "access-control-allow-origin" not in answer.headers


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("named")
    cors = Cors(allow_origins=("https://app.example.com",))
    running = start_gateway(make_config(folder, cors=cors), [], [MODEL])
    yield running
    running.stop()


def test_named_origins_are_the_only_ones(named: Gateway) -> None:
    app = "https://app.example.com"
    assert ask(named, app, "GET").headers["access-control-allow-origin"] == app
    assert ask(named, app).headers["access-control-allow-origin"] == app
    assert "access-control-allow-origin" not in ask(named, HERE, "GET").headers
    assert preflight(named, app).status_code == 204
    assert preflight(named, HERE).status_code == 403


def test_a_service_for_other_machines_opens_to_no_page_by_itself(tmp_path: Path) -> None:
    assert not CorsPolicy(Cors(), "0.0.0.0").is_on
    assert not CorsPolicy(Cors(allow_origins=()), "127.0.0.1").is_on
    everybody = CorsPolicy(Cors(allow_origins=("*",)), "0.0.0.0")
    assert everybody.headers([(b"origin", b"https://a.example")])


@pytest.mark.parametrize("origin", ["example.com", "https://a.example/path", "https://*.a.example"])
def test_what_is_no_origin_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        Cors(allow_origins=(origin,))
