"""Limits per minute: OpenAI's headers on every answer, a 429 that says when to come back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from server.config import Limits
from server.generation.rates import duration
from tests.gateway.conftest import (
    KEY,
    MODEL,
    REPLIES,
    SECOND_KEY,
    Gateway,
    Worker,
    make_config,
    start_gateway,
    start_worker,
    user,
)
from tests.gateway.raw import post

CHAT = "/v1/chat/completions"
HELLO = {"model": MODEL, "messages": user("say hello")}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    started = start_worker(tmp_path_factory.mktemp("worker"), "engine", REPLIES)
    yield started
    started.stop()


@pytest.fixture
def limited(tmp_path: Path, worker: Worker, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    running = start_gateway(
        make_config(tmp_path, limits=Limits(**request.param)), [worker], [MODEL]
    )
    yield running
    running.stop()


@pytest.mark.parametrize("limited", [{"requests_per_minute": 3}], indirect=True)
def test_requests_per_minute(limited: Gateway) -> None:
    for left in (2, 1, 0):
        answer = post(limited, CHAT, {**HELLO, "stream": left == 1})
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "3"
        assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
        assert re.fullmatch(r"(1m)?[\d.]+s", answer.headers["x-ratelimit-reset-requests"])
        assert "x-ratelimit-limit-tokens" not in answer.headers
        assert post(limited, CHAT, {**HELLO, "temperature": 9}).status_code == 400
    refused = post(limited, "/v1/completions", {"model": MODEL, "prompt": "say hello"})
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "requests"
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 15 <= int(refused.headers["retry-after"]) <= 20
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    with limited.client() as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=MODEL, messages=user("say hello"))


@pytest.mark.parametrize("limited", [{"tokens_per_minute": 40}], indirect=True)
def test_tokens_per_minute(limited: Gateway) -> None:
    """What an answer says is left, is left after its own tokens; a debt is waited for."""
    answer = post(limited, CHAT, HELLO)
    used = answer.json()["usage"]["total_tokens"]
    assert answer.headers["x-ratelimit-limit-tokens"] == "40"
    assert abs(int(answer.headers["x-ratelimit-remaining-tokens"]) - (40 - used)) <= 1
    long = {"model": MODEL, "messages": user("many words")}
    assert post(limited, CHAT, long).status_code == 200
    refused = post(limited, CHAT, HELLO)
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "tokens"
    assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
    assert int(refused.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("limited", "whose", "statuses"),
    [
        ({"requests_per_minute": 1, "per_minute_of": "key"}, "key", [200, 429, 200, 429]),
        ({"requests_per_minute": 1}, "project", [200, 429, 429, 429]),
    ],
    indirect=["limited"],
)
def test_keys_share_their_project_s_limit_or_have_their_own(
    limited: Gateway, whose: str, statuses: list[int]
) -> None:
    keys = (KEY, KEY, SECOND_KEY, SECOND_KEY)
    answers = [post(limited, CHAT, HELLO, key) for key in keys]
    assert [answer.status_code for answer in answers] == statuses
    assert f"for your {whose} on requests" in answers[-1].json()["error"]["message"]


def test_without_limits_there_are_no_such_headers(gateway: Gateway) -> None:
    headers: Any = post(gateway, CHAT, HELLO).headers
    assert not [name for name in headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.017, "17ms"), (1, "1s"), (1.25, "1.25s"), (360, "6m0s"), (0, "0ms")]
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text
