"""The API document is large, and may be asked for without a key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.hostile.conftest import StartTarget


def test_making_the_document_holds_nobody_up(start: StartTarget) -> None:
    fresh = start()
    with fresh.watch(max_stall_cpu_s=1.0), ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(fresh.get, ["/openapi.json"] * 8))
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
