"""Engine workers that are stopped without a word: SIGSTOP, as a hung driver or a frozen host is."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from server.engines.silence import HANGS_AFTER_S
from tests.jobs.live import Gateway, engines_of, running_gateway, running_supervisor, wait_until
from tests.jobs.stories import say
from tests.pool.conftest import metric, scripted, wait_connected

REPLIES: list[dict[str, Any]] = [
    {"contains": "for ever", "tokens": ["tick "], "hangs": True},
    {"contains": "a moment", "text": "late", "first_token_ms": 1500},
    {"text": "I am {adapter}."},
]


@contextmanager
def stopped(pid: int) -> Generator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def readiness(gateway: Gateway) -> httpx.Response:
    return httpx.get(f"{gateway.url}/readyz")


def ask(client: openai.OpenAI, text: str, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="tiny", messages=messages, **options)


def test_silence_is_noticed_within_ten_seconds() -> None:
    assert HANGS_AFTER_S < 9


def test_a_hanging_engine_is_told_of_and_refuses_until_it_goes_on(tmp_path: Path) -> None:
    settings: dict[str, object] = {"models": [scripted(REPLIES)]}
    with (
        running_gateway(tmp_path, settings) as gateway,
        running_supervisor(tmp_path) as supervisor,
    ):
        client = gateway.client()
        wait_connected(gateway, 1)
        stream = ask(client, "for ever", stream=True)
        next(stream)
        (engine,) = engines_of(supervisor.pid)
        with stopped(engine.pid):
            wait_until(lambda: readiness(gateway).status_code == 503)
            told = readiness(gateway).json()
            assert told["missing"] == ["engine of tiny"]
            assert [hanging["model"] for hanging in told["hanging"]] == ["tiny"]
            assert metric(gateway, "tuneyard_engines_hanging") == 1
            with pytest.raises(openai.InternalServerError) as refused:
                say(client, "tiny")
            assert refused.value.status_code == 503
            assert int(refused.value.response.headers["retry-after"]) >= 1
            with pytest.raises(openai.APIError, match="Please retry"):
                list(stream)
        wait_until(lambda: readiness(gateway).status_code == 200)
        assert say(client, "tiny") == "I am base."
        assert [other.pid for other in engines_of(supervisor.pid)] == [engine.pid]


def test_requests_of_a_hanging_engine_go_to_another(tmp_path: Path) -> None:
    """New ones, and those whose caller has seen nothing yet."""
    settings: dict[str, object] = {"models": [scripted(REPLIES, replicas=2)]}
    with (
        running_gateway(tmp_path, settings) as gateway,
        running_supervisor(tmp_path) as supervisor,
        ThreadPoolExecutor(8) as threads,
    ):
        client = gateway.client()
        wait_connected(gateway, 2)
        asked = [threads.submit(ask, client, f"a moment, {number}") for number in range(8)]
        wait_until(lambda: metric(gateway, "tuneyard_engine_requests") == 8, interval_s=0.01)
        with stopped(engines_of(supervisor.pid)[0].pid):
            answers = [answer.result() for answer in asked]
            assert [answer.choices[0].message.content for answer in answers] == ["late"] * 8
            assert metric(gateway, "tuneyard_retries_total", after="engine_dead") >= 1
            assert metric(gateway, "tuneyard_engines_hanging") == 1
            assert readiness(gateway).status_code == 200
            assert len(readiness(gateway).json()["hanging"]) == 1
            for number in range(4):
                assert ask(client, f"hello, {number}").choices[0].message.content == "I am base."
        wait_until(lambda: metric(gateway, "tuneyard_engines_hanging") == 0)
