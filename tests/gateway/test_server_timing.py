"""The header that says what a request's time went to."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from email.message import Message
from typing import Any

import pytest

from tests.gateway.conftest import KEY, MODEL, Gateway, user

STAGE = re.compile(r"(\w+);dur=(\d+\.\d)")


def headers_of(gateway: Gateway, path: str, body: dict[str, Any]) -> Message:
    request = urllib.request.Request(
        f"{gateway.url}{path}",
        json.dumps({"model": MODEL, **body}).encode(),
        {"authorization": f"Bearer {KEY}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            answer.read()
            return answer.headers
    except urllib.error.HTTPError as error:
        return error.headers


def stages_of(headers: Message) -> list[str]:
    return [name for name, _ in STAGE.findall(headers["server-timing"])]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": user("say hello")}),
        ("/v1/chat/completions", {"messages": user("say hello"), "n": 3}),
        ("/v1/completions", {"prompt": "say hello"}),
        ("/v1/responses", {"input": "say hello"}),
    ],
)
def test_a_whole_answer_tells_of_its_three_stages_and_a_stream_of_what_is_over(
    gateway: Gateway, path: str, body: dict[str, Any]
) -> None:
    whole = headers_of(gateway, path, body)
    assert stages_of(whole) == ["queue", "prefill", "decode"]
    told_ms = sum(float(ms) for _, ms in STAGE.findall(whole["server-timing"]))
    # The whole is told in entire milliseconds, each stage in rounded tenths.
    assert -0.2 < told_ms - int(whole["openai-processing-ms"]) < 1.2
    assert stages_of(headers_of(gateway, path, {**body, "stream": True})) == ["queue"]


def test_what_no_engine_worked_for_has_no_stages(gateway: Gateway) -> None:
    refused = headers_of(gateway, "/v1/chat/completions", {"messages": []})
    assert refused["server-timing"] is None
    assert refused["openai-processing-ms"] is not None
