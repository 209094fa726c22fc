"""A fault of the gateway's own in the middle of an answer, met through a tool-call dialect that
breaks on some output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from templates.dialects import DIALECTS
from templates.dialects.base import Tools
from templates.format import ContentDelta, Delta
from tests.gateway.conftest import MODEL, Gateway, user, wait_for
from tests.gateway.raw import post

CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


class _Breaking:
    def __init__(self, at: str) -> None:
        self._at = at

    def feed(self, text: str) -> Sequence[Delta]:
        if self._at in text:
            raise ValueError("secret detail")
        return (ContentDelta(text),)

    def finish(self, cut: bool = False) -> Sequence[Delta]:
        if self._at == "the end":
            raise ValueError("secret detail")
        return ()


@pytest.fixture(params=["Hello", "friend", "the end"])
def breaking(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a dialect that breaks at the first token, at a later one, or at the end."""
    name = f"breaking at {request.param}"

    def read(_tools: Tools) -> _Breaking:
        return _Breaking(request.param)

    DIALECTS[name] = replace(DIALECTS["qwen"], name=name, read=read)
    yield name
    del DIALECTS[name]


def _ask(gateway: Gateway, dialect: str, **fields: Any) -> Any:
    body = {"model": MODEL, "messages": user("say hello"), "tools": [TOOL]}
    return post(gateway, CHAT, {**body, "tool_format": dialect, **fields})


@pytest.mark.parametrize("n", [1, 3])
def test_a_fault_ends_its_request_at_once(gateway: Gateway, breaking: str, n: int) -> None:
    connection = gateway.app.services.pool.connections(MODEL)[0]
    whole = _ask(gateway, breaking, n=n)
    assert whole.status_code == 500
    assert whole.json()["error"]["type"] == "server_error"
    stream = _ask(gateway, breaking, n=n, stream=True)
    assert stream.status_code == 200
    records = stream.text.strip().split("\n\n")
    assert '"server_error"' in records[-2]
    assert records[-1] == "data: [DONE]"
    assert "secret" not in whole.text + stream.text
    wait_for(lambda: connection.load == 0)
    assert gateway.num_under_way == 0
    assert _ask(gateway, "qwen", n=n).status_code == 200
