"""`python -m server.supervisor [--config FILE] [--parent-fd N]`: leaves on SIGTERM, SIGINT, or when
the process that holds the other end of the pipe is gone."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

from server.config import Config, load_config
from server.logs import configure_logging
from server.supervisor.supervisor import run_supervisor


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m server.supervisor", description=__doc__)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--parent-fd", type=int)
    options = parser.parse_args()
    configure_logging("supervisor")
    asyncio.run(supervise(load_config(options.config), options.parent_fd))


async def supervise(config: Config, parent_fd: int | None) -> None:
    """Runs the supervisor until it is told to leave."""
    running = asyncio.create_task(run_supervisor(config))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel)
    if parent_fd is not None:
        os.set_blocking(parent_fd, False)
        loop.add_reader(parent_fd, _on_parent, loop, parent_fd, running)
    with suppress(asyncio.CancelledError):
        await running


def _on_parent(
    loop: asyncio.AbstractEventLoop, parent_fd: int, running: asyncio.Task[None]
) -> None:
    with suppress(BlockingIOError):
        if not os.read(parent_fd, 1024):
            loop.remove_reader(parent_fd)
            running.cancel()


if __name__ == "__main__":
    main()
