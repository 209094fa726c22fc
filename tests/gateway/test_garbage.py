"""What a request has made is freed as it ends: the collector's pauses would fall on all others."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import openai
import pytest

from server.generation.exchange import Exchange
from tests.gateway.conftest import MODEL, Gateway, user, wait_for


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.usefixtures("no_collector")
def test_a_finished_request_leaves_nothing_to_collect(
    gateway: Gateway, client: openai.OpenAI, n: int
) -> None:
    client.chat.completions.create(model=MODEL, messages=user("say hello"), n=n)
    for _ in client.chat.completions.create(
        model=MODEL, messages=user("say hello"), n=n, stream=True
    ):
        pass
    wait_for(lambda: gateway.num_under_way == 0)
    # Not `isinstance`: it asks each object for its class, and some of torch warn when asked.
    wait_for(lambda: not any(type(each) is Exchange for each in gc.get_objects()))
