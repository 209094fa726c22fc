"""The worker process: start, serve, and leave without leaving anything behind.

It leaves when told (SIGTERM, SIGINT), when its parent is gone (end-of-file on the parent pipe), or
when the engine died. Told to, it takes no new requests and gives those under way
`drain_timeout_s` to end (a second signal ends the wait); when its parent is gone, at most
`ORPHAN_TIMEOUT_S`. Then connections close, which ends the rest.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import ssl
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from workers.engine.adapter_store import AdapterStore
from workers.engine.backends import create
from workers.engine.generation_config import generation_config
from workers.engine.listener import Listener, server_tls
from workers.engine.service import EngineService
from workers.engine.spec import EngineSpec, SpecError
from workers.engine.template_check import template_difference

log = logging.getLogger(__name__)

ORPHAN_TIMEOUT_S = 3.0
ORPHAN_LIMIT_S = 20.0
"""A worker whose parent is gone and that has not left by then, because it hangs, is ended with all
it started."""
_STATS_INTERVAL_S = 1.0
_DRAIN_POLL_S = 0.02


async def serve(spec: EngineSpec) -> int:
    """Runs the worker; gives the exit status. Raises SpecError before anything is served."""
    orders = _Orders(spec.parent_fd)
    stop = orders.leave
    tls = _tls(spec)
    backend, vocabulary = create(spec)
    max_requests = spec.max_num_seqs + spec.max_waiting
    difference = template_difference(spec, vocabulary)
    service = EngineService(
        spec.model_id,
        backend,
        vocabulary,
        max_requests,
        difference,
        generation=generation_config(spec),
        adapter_store=None if spec.adapters_dir is None else AdapterStore(Path(spec.adapters_dir)),
    )
    listener = Listener(service, spec.listen, spec.token, tls)
    try:
        if not await _unless(stop, service.start()):
            return 0
        await listener.start()
        log.info("ready", extra={"model": spec.model_id, "listen": spec.listen})
        stats = asyncio.create_task(_report_stats(service))
        await _first_of(stop, service.dead)
        await listener.stop_accepting()
        if not service.dead.is_set():
            service.leave()
            await _drain(service, orders, spec.drain_timeout_s)
        stats.cancel()
    finally:
        await listener.close()
        await backend.close()
    log.info("leaving", extra={"model": spec.model_id})
    return 1 if service.dead.is_set() else 0


def _tls(spec: EngineSpec) -> ssl.SSLContext | None:
    """Raises SpecError."""
    if spec.tls_cert is None:
        return None
    try:
        return server_tls(spec.tls_cert, spec.tls_key)
    except OSError as error:
        raise SpecError(f"tls_cert and tls_key cannot be used: {error}") from error


class _Orders:
    """What the process is told: to leave when it is idle, or to hurry."""

    def __init__(self, parent_fd: int | None) -> None:
        self.leave = asyncio.Event()
        self.hurry = asyncio.Event()
        """Somebody cannot wait: a second signal."""
        self.is_orphan = False
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._told)
        if parent_fd is not None:
            os.set_blocking(parent_fd, False)
            self._loop.add_reader(parent_fd, self._look, parent_fd)
            threading.Thread(target=_end_orphan, args=(parent_fd,), daemon=True).start()

    def _told(self) -> None:
        (self.hurry if self.leave.is_set() else self.leave).set()

    def _look(self, parent_fd: int) -> None:
        try:
            if os.read(parent_fd, 1024):
                return
        except BlockingIOError:
            return
        self._loop.remove_reader(parent_fd)
        self.is_orphan = True
        self.leave.set()


def _end_orphan(parent_fd: int) -> None:
    """In a thread of its own, as the event loop may be what hangs."""
    looked_at = select.poll()
    looked_at.register(parent_fd, 0)
    looked_at.poll()
    time.sleep(ORPHAN_LIMIT_S)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


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


async def _drain(service: EngineService, orders: _Orders, timeout_s: float) -> None:
    """The first turn lets what a client wrote before it heard of the leaving be refused."""
    begun = asyncio.get_running_loop().time()
    while True:
        await asyncio.sleep(_DRAIN_POLL_S)
        waited_s = asyncio.get_running_loop().time() - begun
        limit_s = min(timeout_s, ORPHAN_TIMEOUT_S) if orders.is_orphan else timeout_s
        if not service.num_active or orders.hurry.is_set() or waited_s >= limit_s:
            return


async def _report_stats(service: EngineService) -> None:
    while True:
        await asyncio.sleep(_STATS_INTERVAL_S)
        service.broadcast_stats()
