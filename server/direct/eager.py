"""Coroutines that mostly need no task, because they mostly wait for nothing."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any


def run_eagerly(coroutine: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    """Runs a coroutine until it first waits; only if it does, a task of `tasks` runs the rest.
    What comes before has no `asyncio.current_task`: see `own_task`."""
    try:
        waited_for = coroutine.send(None)
    except StopIteration:
        return
    task = asyncio.get_running_loop().create_task(_rest(coroutine, waited_for))
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def own_task() -> None:
    """Before something that needs a current task, such as `asyncio.timeout`."""
    if asyncio.current_task() is None:
        await asyncio.sleep(0)


async def _rest(coroutine: Coroutine[Any, Any, None], waited_for: Any) -> None:
    """Goes on with a coroutine that was started by hand and is waiting for `waited_for`."""
    await _steps(coroutine, waited_for)


@types.coroutine
def _steps(coroutine: Coroutine[Any, Any, None], waited_for: Any) -> Generator[Any, Any, None]:
    while True:
        step: Callable[[], Any]
        try:
            step = partial(coroutine.send, (yield waited_for))
        except BaseException as error:
            step = partial(coroutine.throw, error)
        try:
            waited_for = step()
        except StopIteration:
            return
