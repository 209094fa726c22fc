"""The HTTP process: uvicorn on a socket that the root process keeps open, so callers wait for a
restarted gateway instead of being refused."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import threading
from contextlib import suppress
from types import FrameType

import uvicorn

from server.app import create_app
from server.config import Config
from server.direct.connections import raise_file_limit
from server.direct.protocol import server_config
from server.logs import AccessLog, configure_logging

DRAIN_TIMEOUT_S = 3
"""How long streams may go on after the process was told to leave."""
_BACKLOG = 2048
GC_THRESHOLD = 20_000
"""New objects between two collections. What is there at the start is never looked at again:
walking it costs more than the requests do."""

_TICK_S = 1.0
"""How often the `Date` header is made anew."""


class GatewayServer(uvicorn.Server):
    """uvicorn looks ten times a second whether it is to leave; this one is told."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._told = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._told.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._wake()

    def leave(self) -> None:
        """From any thread."""
        self.should_exit = True
        self._wake()

    def _wake(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._told.set)


def run_gateway(config: Config, *, parent_fd: int, listen_fd: int) -> None:
    """Until told to leave (SIGTERM) or the parent is gone."""
    configure_logging("gateway")
    raise_file_limit()
    server = GatewayServer(
        server_config(
            create_app(config, AccessLog(sys.stderr)),
            backlog=_BACKLOG,
            timeout_graceful_shutdown=DRAIN_TIMEOUT_S,
        )
    )
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    threading.Thread(target=_leave_with_parent, args=(server, parent_fd), daemon=True).start()
    server.run(sockets=[socket.socket(fileno=listen_fd)])


def _leave_with_parent(server: GatewayServer, parent_fd: int) -> None:
    while os.read(parent_fd, 1024):
        pass
    server.leave()
