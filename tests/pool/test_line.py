"""`max_concurrent`: who is inside, who waits, who is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from server.errors import Unavailable
from server.gate import Call, ClientGone
from server.generation.line import Line


class Caller:
    """A request; `end` completes its reply, or hangs up."""

    def __init__(self, *, is_spare: bool = False) -> None:
        self.over = False
        self.call = Call()
        self.call.is_spare = is_spare
        self._callbacks: list[Callable[[], None]] = []

    def when_over(self, callback: Callable[[], None]) -> None:
        if self.over:
            callback()
        else:
            self._callbacks.append(callback)

    def end(self) -> None:
        self.over = True
        for callback in self._callbacks:
            callback()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_more_than_allowed_wait_in_order_and_one_too_many_is_refused() -> None:
    line = Line(max_concurrent=2, max_queued=2)
    callers = [Caller() for _ in range(4)]
    entered: list[int] = []

    async def visit(number: int) -> None:
        await line.enter(callers[number])
        entered.append(number)

    visits = [asyncio.create_task(visit(number)) for number in range(4)]
    await settle()
    assert (line.num_inside, line.num_waiting) == (2, 2)
    with pytest.raises(Unavailable) as refused:
        await line.enter(Caller())
    assert ("retry-after", "2") in refused.value.headers
    callers[1].end()
    await visits[2]
    assert entered == [0, 1, 2]
    callers[0].end()
    await visits[3]
    callers[2].end()
    callers[3].end()
    assert (line.num_inside, line.num_waiting, line.num_waited) == (0, 0, 2)
    assert line.num_refused == 1


async def test_a_caller_that_hangs_up_leaves_the_line() -> None:
    line = Line(max_concurrent=1, max_queued=8)
    inside, leaver, patient = Caller(), Caller(), Caller()
    await line.enter(inside)
    leaving = asyncio.create_task(line.enter(leaver))
    staying = asyncio.create_task(line.enter(patient))
    await settle()
    leaver.end()
    with pytest.raises(ClientGone):
        await leaving
    assert line.num_waiting == 1
    inside.end()
    await staying
    assert line.num_inside == 1
    with pytest.raises(ClientGone):
        await line.enter(leaver)


async def test_a_caller_that_hangs_up_as_its_turn_comes_costs_no_place() -> None:
    line = Line(max_concurrent=1, max_queued=8)
    inside, unlucky = Caller(), Caller()
    await line.enter(inside)
    waiting = asyncio.create_task(line.enter(unlucky))
    await settle()
    inside.end()
    unlucky.end()
    await waiting
    assert (line.num_inside, line.num_waiting) == (0, 0)


async def test_a_spare_one_enters_after_all_others_and_keeps_none_of_them_waiting() -> None:
    line = Line(max_concurrent=1, max_queued=8)
    callers = [Caller(is_spare=True), Caller(is_spare=True), Caller(), Caller()]
    entered: list[int] = []

    async def visit(number: int) -> None:
        await line.enter(callers[number])
        entered.append(number)

    visits = [asyncio.create_task(visit(number)) for number in range(4)]
    await settle()
    assert entered == [0, 2], "the second spare one waits, and the last for the third"
    callers[0].end()
    await settle()
    assert entered == [0, 2]
    callers[2].end()
    await visits[3]
    assert entered == [0, 2, 3]
    callers[3].end()
    await visits[1]
    assert entered == [0, 2, 3, 1]
    callers[1].end()
    assert line.num_inside == 0
