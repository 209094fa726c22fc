"""A gateway with a scripted engine, and Anthropic's official client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from tests.gateway.conftest import (
    DEADLINE_S,
    KEY,
    MODEL,
    Gateway,
    make_config,
    start_gateway,
    start_worker,
)
from tests.responses.conftest import REPLIES


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("ms")
    worker = start_worker(folder, "engine", REPLIES)
    running = start_gateway(make_config(folder), [worker], [MODEL])
    yield running
    running.stop()
    worker.stop()


def connect(gateway: Gateway, **settings: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        **{"base_url": gateway.url, "api_key": KEY, "max_retries": 0, **settings}
    )


@pytest.fixture(scope="session")
def client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with connect(gateway, _strict_response_validation=True) as opened:
        yield opened


@pytest.fixture(scope="session")
def raw(gateway: Gateway) -> Iterator[httpx.Client]:
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    with httpx.Client(base_url=f"{gateway.url}/v1", headers=headers, timeout=DEADLINE_S) as opened:
        yield opened
