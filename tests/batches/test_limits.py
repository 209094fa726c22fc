"""What a file of requests may hold, and whose line is next."""

from __future__ import annotations

import asyncio
import json

from server.batches.input_file import MAX_LINES, InputCheck, Line
from server.batches.slots import Slots
from tests.batches.conftest import line


def _fed(*texts: bytes) -> InputCheck:
    check = InputCheck("/v1/chat/completions")
    check.feed([Line(number, text) for number, text in enumerate(texts, 1)])
    check.finish()
    return check


def test_a_file_may_hold_fifty_thousand_lines_and_not_one_more() -> None:
    texts = [json.dumps(line(f"n{n}")).encode() for n in range(MAX_LINES + 1)]
    assert _fed(*texts[:-1]).errors == []
    assert [error["code"] for error in _fed(*texts).errors] == ["too_many_tasks"]


def test_text_that_is_no_json_is_an_error_of_its_line() -> None:
    whole = json.dumps(line("a")).encode()
    lone = json.dumps(line("\ud800")).encode()
    check = _fed(whole, b"{", b"\xff\xfe", b"[" * 100_000, lone)
    told = [(error["line"], error["code"]) for error in check.errors]
    assert told == [(number, "invalid_json_line") for number in (2, 3, 4, 5)]


def test_projects_take_turns_for_the_slots() -> None:
    async def order() -> list[str]:
        slots = Slots(1)
        await slots.take("first")
        ended: list[str] = []

        async def run(project: str) -> None:
            async with slots.slot(project):
                ended.append(project)

        async with asyncio.TaskGroup() as group:
            for project in ("many", "many", "many", "few", "few"):
                group.create_task(run(project))
            await asyncio.sleep(0)
            slots.give_back()
        return ended

    assert asyncio.run(order()) == ["many", "few", "many", "few", "many"]
