"""Metrics name routes and states, and nothing that a caller may choose."""

from __future__ import annotations

import contextlib

import httpx
import openai

from tests.gateway.conftest import KEY, MODEL, Gateway, user

_COUNTED = {
    ("POST", "/v1/chat/completions", 200): 2.0,
    ("POST", "/v1/responses", 400): 1.0,
    ("GET", "/v1/files/{file_id}", 404): 3.0,
    ("HEAD", "/v1/models", 200): 1.0,
    ("GET", "none", 404): 2.0,
    ("POST", "/v1/uploads", 200): 1.0,
}


def read(gateway: Gateway) -> dict[str, float]:
    lines = httpx.get(f"{gateway.url}/metrics").text.splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def name_of(method: str, route: str, status: int) -> str:
    labels = f'method="{method}",route="{route}",status="{status}"'
    return f"tuneyard_http_requests_total{{{labels}}}"


def test_answers_are_counted_by_route_and_not_by_path(gateway: Gateway) -> None:
    before = read(gateway)
    client = gateway.client()
    for _ in range(2):
        client.chat.completions.create(model=MODEL, messages=user("say hello"))
    with contextlib.suppress(openai.BadRequestError):
        client.responses.create(model=MODEL, input="say hello", temperature=9)
    for name in ("file-a", "file-b", "file-c"):
        with contextlib.suppress(openai.NotFoundError):
            client.files.retrieve(name)
    headers = {"authorization": f"Bearer {KEY}"}
    httpx.head(f"{gateway.url}/v1/models", headers=headers)
    for path in ("/v1/nothing", "/v1/else"):
        httpx.get(gateway.url + path, headers=headers)
    client.uploads.create(bytes=3, filename="a.jsonl", mime_type="text/plain", purpose="fine-tune")
    after = read(gateway)
    for labels, count in _COUNTED.items():
        assert after[name_of(*labels)] - before.get(name_of(*labels), 0.0) == count, labels
    pending = 'tuneyard_uploads{state="pending"}'
    assert after[pending] - before.get(pending, 0.0) == 1.0
    assert not [name for name in after if "file-a" in name or "nothing" in name]
