"""The bystander is answered, and growth is seen: what the tests of this folder rest on."""

from __future__ import annotations

import pytest

from tests.gateway.conftest import MODEL, user
from tests.gateway.raw import request_bytes
from tests.hostile.conftest import MB, StartTarget, Target

CHAT = "/v1/chat/completions"


def test_a_harmless_request_passes(target: Target) -> None:
    with target.watch() as seen:
        answer = target.exchange(
            request_bytes(CHAT, {"model": MODEL, "messages": user("x")}, "Connection: close")
        )
        assert answer.startswith(b"HTTP/1.1 200 ")
    assert seen.num_answers >= 1


def test_growth_is_seen(start: StartTarget) -> None:
    small = start(max_body_bytes=64 * MB)
    body = {"model": MODEL, "messages": user("x" * 16 * MB)}
    with pytest.raises(AssertionError, match="MB more"), small.watch(max_growth_bytes=MB):
        small.exchange(request_bytes(CHAT, body, "Connection: close"))
