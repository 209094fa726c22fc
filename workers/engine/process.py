"""The worker process: start, serve, and leave without leaving anything behind.

It leaves when told (SIGTERM, SIGINT), when its parent is gone (end-of-file on the parent pipe), or
when the engine died. On the first two it stops taking connections and gives requests under way
`DRAIN_TIMEOUT_S` to end; then connections close, which ends the rest.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine
from typing import Any

from workers.engine.backends import create
from workers.engine.generation_config import generation_config
from workers.engine.listener import Listener
from workers.engine.service import EngineService
from workers.engine.spec import EngineSpec
from workers.engine.template_check import template_difference

log = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 3.0
_STATS_INTERVAL_S = 1.0


async def serve(spec: EngineSpec) -> int:
    """Runs the worker; gives the exit status. Raises SpecError before anything is served."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if spec.parent_fd is not None:
        _watch_parent(spec.parent_fd, stop)
    backend, vocabulary = create(spec)
    max_requests = spec.max_num_seqs + spec.max_waiting
    difference = template_difference(spec, vocabulary)
    defaults = generation_config(spec)
    service = EngineService(
        spec.model_id, backend, vocabulary, max_requests, difference, generation=defaults
    )
    listener = Listener(service, spec.listen, spec.token)
    try:
        if not await _unless(stop, service.start()):
            return 0
        await listener.start()
        log.info("ready", extra={"model": spec.model_id, "listen": spec.listen})
        stats = asyncio.create_task(_report_stats(service))
        await _first_of(stop, service.dead)
        stats.cancel()
        await listener.stop_accepting()
        if not service.dead.is_set():
            await _drain(service)
    finally:
        await listener.close()
        await backend.close()
    log.info("leaving", extra={"model": spec.model_id})
    return 1 if service.dead.is_set() else 0


def _watch_parent(fd: int, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)

    def readable() -> None:
        try:
            if os.read(fd, 1024):
                return
        except BlockingIOError:
            return
        loop.remove_reader(fd)
        stop.set()

    loop.add_reader(fd, readable)


async def _unless(stop: asyncio.Event, start: Coroutine[Any, Any, None]) -> bool:
    """False if told to stop before the start was done; a start that fails raises."""
    starting = asyncio.ensure_future(start)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        return False
    await starting
    return True


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _drain(service: EngineService) -> None:
    deadline = asyncio.get_running_loop().time() + DRAIN_TIMEOUT_S
    while service.num_active and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.02)


async def _report_stats(service: EngineService) -> None:
    while True:
        await asyncio.sleep(_STATS_INTERVAL_S)
        service.broadcast_stats()
