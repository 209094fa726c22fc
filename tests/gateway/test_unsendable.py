"""A request that has no form on the wire fails alone, not with all that shares its frame."""

from __future__ import annotations

import asyncio
from pathlib import Path

from server.engines.client import Work
from server.engines.connecting import connect_engine
from tests.gateway.conftest import DEADLINE_S, MODEL, REPLIES, start_worker
from workers.contract.messages import Event, Failed, FailureKind, Finished
from workers.contract.parts import Sampling, Text


def test_an_unsendable_request_fails_alone(tmp_path: Path) -> None:
    worker = start_worker(tmp_path, "only", REPLIES)

    async def both() -> list[Event]:
        connection = await connect_engine("only", MODEL, worker.address, None)
        lasts = [asyncio.get_running_loop().create_future() for _ in range(2)]

        def generate(index: int, max_tokens: int) -> None:
            def take(event: Event) -> None:
                if isinstance(event, Failed | Finished):
                    lasts[index].set_result(event)

            prompt = Text("say hello", control=True)
            connection.generate(Work([prompt], Sampling(max_tokens=max_tokens)), take, "")

        generate(0, 10**30)
        generate(1, 5)
        async with asyncio.timeout(DEADLINE_S):
            events = await asyncio.gather(*lasts)
        connection.close()
        return events

    try:
        unsendable, other = asyncio.run(both())
    finally:
        worker.stop()
    assert isinstance(unsendable, Failed)
    assert unsendable.kind is FailureKind.INTERNAL
    assert isinstance(other, Finished)
