"""The bytes of a stream, and what happens when either end of it goes away."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from blockbuster import blockbuster_ctx

from server.config import Limits
from server.store import open_store
from tests.gateway.conftest import (
    DEADLINE_S,
    KEY,
    MODEL,
    REPLIES,
    Gateway,
    make_config,
    start_gateway,
    start_worker,
    user,
    wait_for,
)
from tests.gateway.raw import connect, post, read_until, request_bytes

CHAT = "/v1/chat/completions"


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": user(text), **fields}


def test_the_bytes_of_a_stream(gateway: Gateway) -> None:
    fields = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 1}
    response = post(gateway, CHAT, chat("say hello", **fields))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    start = re.match(
        rb'data: (\{"id":"chatcmpl-[0-9a-f]{28}","object":"chat.completion.chunk",'
        rb'"created":\d+,"model":"scripted-model","service_tier":"default",'
        rb'"system_fingerprint":"fp_[0-9a-f]{10}","choices":\[)',
        response.content,
    )
    assert start is not None
    head = start[1]
    prompt_tokens = json.loads(response.content.split(b"\n\n")[-3][6:])["usage"]["prompt_tokens"]
    usage = (
        b'{"prompt_tokens":%d,"completion_tokens":1,"total_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
        b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
    ) % (prompt_tokens, prompt_tokens + 1)
    rest = b',"logprobs":null,"finish_reason":'
    none = b'}],"usage":null}'
    assert response.content.split(b"\n\n") == [
        b"data: " + head + b'{"index":0,"delta":{"role":"assistant","content":"","refusal":null}'
        + rest + b"null" + none,
        b"data: " + head + b'{"index":0,"delta":{"content":"Hello"}' + rest + b"null" + none,
        b"data: " + head + b'{"index":0,"delta":{}' + rest + b'"length"' + none,
        b"data: " + head + b'],"usage":' + usage + b"}",
        b"data: [DONE]",
        b"",
    ]  # fmt: skip


def test_every_character_survives_the_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=user('quote "me'), stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == 'a "quoted" back\\slash \u00e9\u4e2d\U0001f600\n\x01'


def test_obfuscation_only_when_asked_for(gateway: Gateway) -> None:
    plain = post(gateway, CHAT, chat("say hello", stream=True))
    assert b"obfuscation" not in plain.content
    options = {"include_obfuscation": True}
    padded = post(gateway, CHAT, chat("say hello", stream=True, stream_options=options))
    records = [r for r in padded.content.split(b"\n\n") if b'"delta":{"content"' in r]
    assert all(json.loads(r[6:])["obfuscation"] for r in records)


def test_an_error_after_the_first_byte_is_one_record(
    gateway: Gateway, client: openai.OpenAI
) -> None:
    response = post(gateway, CHAT, chat("break later", stream=True))
    assert response.status_code == 200
    *_, error, done, end = response.content.split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b"")
    body = json.loads(error[6:])["error"]
    assert body["type"] == "server_error"
    assert b"secret detail" not in response.content
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(
            model=MODEL, messages=user("break later"), stream=True
        ))  # fmt: skip


def test_a_silent_stream_is_kept_alive(gateway: Gateway) -> None:
    with connect(gateway) as opened:
        opened.sendall(request_bytes(CHAT, chat("too long a wait", stream=True)))
        data = read_until(opened, b"[DONE]")
    assert data.index(b": keep-alive\n\n") < data.index(b"late")


@pytest.mark.parametrize("stream", [True, False])
def test_hanging_up_aborts_the_generation(gateway: Gateway, stream: bool) -> None:
    connection = gateway.app.services.pool.connections(MODEL)[0]
    wait_for(lambda: connection.num_requests == 0)
    with connect(gateway) as opened:
        opened.sendall(request_bytes(CHAT, chat("never end", stream=stream)))
        wait_for(lambda: connection.num_requests == 1)
        if stream:
            read_until(opened, b"word")
    wait_for(lambda: connection.num_requests == 0)
    assert gateway.num_under_way == 0


def test_a_slow_reader_gets_everything(gateway: Gateway) -> None:
    """More than the sockets hold is written while nobody reads."""
    body = chat("many words", stream=True, n=128, logprobs=True, top_logprobs=20)
    with connect(gateway) as opened:
        opened.sendall(request_bytes(CHAT, body))
        time.sleep(1.0)
        data = read_until(opened, b"data: [DONE]")
    assert data.count(b'"finish_reason":"stop"') == 128
    assert data.count(b'"content":"word "') == 128 * 40


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit_is_refused_before_it_is_read(
    gateway: Gateway, announced: bool
) -> None:
    lines = [f"POST {CHAT} HTTP/1.1", "Host: test", f"Authorization: Bearer {KEY}"]
    with connect(gateway) as opened:
        if announced:
            lines += ["Content-Length: 10000000000", "", ""]
            opened.sendall("\r\n".join(lines).encode() + b"x" * 1000)
        else:
            lines += ["Transfer-Encoding: chunked", "", ""]
            opened.sendall("\r\n".join(lines).encode())
            chunk = b"%x\r\n" % 50_000 + b"x" * 50_000 + b"\r\n"
            for _ in range(5):
                opened.sendall(chunk)
        data = read_until(opened, b"request_too_large")
    assert data.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in data.lower()


def test_ordinary_routes_have_the_same_limit(gateway: Gateway) -> None:
    response = post(gateway, "/v1/fine_tuning/jobs", b"[" + b" " * 300_000 + b"]")
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


def test_an_engine_lost_before_the_first_token_costs_nothing(tmp_path: Path) -> None:
    """The first replica dies on its first request; the answer comes from the second."""
    dying = [{"contains": "say hello", "tokens": ["x"], "dies_after_tokens": 0}]
    first = start_worker(tmp_path, "first", dying)
    second = start_worker(tmp_path, "second", REPLIES)
    gateway = start_gateway(make_config(tmp_path / "data"), [first, second], [MODEL])
    try:
        with gateway.client() as client:
            for number in range(20):
                messages = user(f"{number}: say hello")
                answer = client.chat.completions.create(model=MODEL, messages=messages)
                assert answer.choices[0].message.content == "Hello there, friend."
        assert first.process.wait(DEADLINE_S) != 0
        metrics = httpx.get(f"{gateway.url}/metrics").text
        assert f'tuneyard_retries_total{{after="engine_dead",model="{MODEL}"}} 1.0' in metrics
    finally:
        gateway.stop()
        second.stop()


def test_an_engine_lost_in_the_middle_is_an_error_record(tmp_path: Path) -> None:
    dying = [{"contains": "say hello", "tokens": ["a ", "b "], "dies_after_tokens": 1,
              "delay_ms": 50}]  # fmt: skip
    worker = start_worker(tmp_path, "only", dying)
    gateway = start_gateway(make_config(tmp_path / "data"), [worker], [MODEL])
    try:
        response = post(gateway, CHAT, chat("say hello", stream=True))
        error = json.loads(response.content.split(b"\n\n")[-3][6:])["error"]
        assert error["type"] == "service_unavailable_error"
        later = post(gateway, CHAT, chat("say hello"))
        assert later.status_code == 503
    finally:
        gateway.stop()
        worker.process.wait(DEADLINE_S)


def test_limits_on_what_is_under_way(tmp_path: Path) -> None:
    worker = start_worker(tmp_path, "only", REPLIES)
    limits = Limits(max_requests_per_project=2, max_requests_per_model=3)
    gateway = start_gateway(make_config(tmp_path / "data", limits=limits), [worker], [MODEL])
    try:
        never = post(gateway, CHAT, chat("say hello", n=3))
        assert (never.status_code, never.json()["error"]["code"]) == (400, "invalid_value")
        with (
            gateway.client() as client,
            client.chat.completions.create(
                model=MODEL, messages=user("never end"), n=2, stream=True
            ),
        ):
            response = post(gateway, CHAT, chat("say hello"))
        assert response.status_code == 429
        assert response.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(response.headers["retry-after"]) >= 1
        wait_for(lambda: gateway.num_under_way == 0)
        assert post(gateway, CHAT, chat("say hello", n=2)).status_code == 200
    finally:
        gateway.stop()
        worker.stop()


async def _usage(gateway: Gateway) -> tuple[int, int, int]:
    from sqlalchemy import text

    store = await open_store(gateway.config.database_url)
    async with store._database.read() as connection:
        query = "select sum(requests), sum(prompt_tokens), sum(completion_tokens) from usage"
        row = (await connection.execute(text(query))).one()
    await store.close()
    return (row[0] or 0, row[1] or 0, row[2] or 0)


def test_usage_is_in_the_store_soon(tmp_path: Path) -> None:
    worker = start_worker(tmp_path, "only", REPLIES)
    gateway = start_gateway(make_config(tmp_path / "data"), [worker], [MODEL])
    try:
        answer = post(gateway, CHAT, chat("say hello")).json()
        used = (1, answer["usage"]["prompt_tokens"], 5)
        wait_for(lambda: asyncio.run(_usage(gateway)) == used)
    finally:
        gateway.stop()
        worker.stop()


def test_nothing_blocks_the_event_loop(gateway: Gateway) -> None:
    with blockbuster_ctx("server"), gateway.client() as client:
        for stream in (False, True):
            answer: Any = client.chat.completions.create(
                model=MODEL, messages=user("say hello"), stream=stream
            )
            assert list(answer)
        client.completions.create(model=MODEL, prompt="say hello", echo=True)
        assert client.models.list().data
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nope")


def test_probes_and_metrics_need_no_key(gateway: Gateway) -> None:
    assert httpx.get(f"{gateway.url}/healthz").json() == {"status": "ok"}
    ready = httpx.get(f"{gateway.url}/readyz")
    assert ready.status_code == 503
    assert ready.json()["missing"] == ["engine of asleep"]
    metrics = httpx.get(f"{gateway.url}/metrics").text
    assert 'tuneyard_http_requests_total{method="GET",route="/healthz",status="200"}' in metrics
    assert 'tuneyard_engine_running{engine="engine-0",model="scripted-model"}' in metrics
