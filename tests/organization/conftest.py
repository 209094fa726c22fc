"""Two gateways on one database, as an installation of several hosts has them, and an admin key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from server.config import Limits, Price
from tests.gateway.conftest import (
    ADMIN_KEY,
    DEADLINE_S,
    KEY,
    MODEL,
    REPLIES,
    Gateway,
    make_config,
    start_gateway,
    start_worker,
)

PROJECT = "proj_test"
PRICES = {MODEL: Price(input=2.0, cached_input=0.5, output=8.0)}


@dataclass(frozen=True)
class Service:
    one: Gateway
    two: Gateway

    def admin(self, key: str = ADMIN_KEY) -> Any:
        """`client.admin.organization` of the official SDK, with answers checked strictly."""
        client = self.one.client(
            api_key="unused",
            admin_api_key=key,
            timeout=DEADLINE_S,
            _strict_response_validation=True,
        )
        return client.admin.organization

    def call(
        self, method: str, path: str, key: str = ADMIN_KEY, on: Gateway | None = None, **more: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}", **more.pop("headers", {})}
        url = (on or self.one).url + path
        return httpx.request(method, url, headers=headers, timeout=DEADLINE_S, **more)


def chat(gateway: Gateway, key: str = KEY, text: str = "say hello", **more: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}
    headers = {"authorization": f"Bearer {key}"}
    url = f"{gateway.url}/v1/chat/completions"
    return httpx.post(url, json=body, headers=headers, timeout=DEADLINE_S)


def status_of(gateway: Gateway, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.get(f"{gateway.url}/v1/files", headers=headers, timeout=DEADLINE_S).status_code


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("organization")
    slow = {"contains": "slow words", "tokens": ["word "], "repeat": 60, "first_token_ms": 1000}
    worker = start_worker(folder, "engine", [*REPLIES, slow])
    config = make_config(folder, limits=Limits(keep_alive_s=0.6), prices=PRICES)
    one = start_gateway(config, [worker], [MODEL, "asleep"])
    two = start_gateway(config, [worker], [MODEL, "asleep"])
    yield Service(one, two)
    two.stop()
    one.stop()
    worker.stop()
