"""The HTTP process: uvicorn on a socket that the root process keeps open, so callers wait for a
restarted gateway instead of being refused."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading

import uvicorn

from server.app import create_app
from server.config import Config
from server.direct.protocol import server_config
from server.logs import AccessLog, configure_logging

DRAIN_TIMEOUT_S = 3
"""How long streams may go on after the process was told to leave."""
_BACKLOG = 2048
GC_THRESHOLD = 20_000
"""New objects between two collections. What is there at the start is never looked at again:
walking it costs more than the requests do."""


def run_gateway(config: Config, *, parent_fd: int, listen_fd: int) -> None:
    """Until told to leave (SIGTERM) or the parent is gone."""
    configure_logging("gateway")
    server = uvicorn.Server(
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


def _leave_with_parent(server: uvicorn.Server, parent_fd: int) -> None:
    while os.read(parent_fd, 1024):
        pass
    server.should_exit = True
