"""`python -m server.supervisor [--config FILE] [--parent-fd N] [--engines-fd N]`: leaves on SIGTERM
and SIGINT, and when the process that holds the other end of the parent's pipe is gone. Its engine
workers live as long as the other end of the engines' pipe: on SIGTERM, and when this process is
killed, they stay for its successor. Without that pipe they go with it."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from server.config import Config, load_config
from server.logs import configure_logging
from server.supervisor.departure import Departure
from server.supervisor.supervisor import run_supervisor


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m server.supervisor", description=__doc__)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--parent-fd", type=int)
    parser.add_argument("--engines-fd", type=int)
    options = parser.parse_args()
    configure_logging("supervisor")
    asyncio.run(supervise(load_config(options.config), options.parent_fd, options.engines_fd))


async def supervise(config: Config, parent_fd: int | None, engines_fd: int | None) -> None:
    """Runs the supervisor until it is told to leave."""
    departure = Departure(engines_fd)
    running = asyncio.create_task(run_supervisor(config, departure))
    loop = asyncio.get_running_loop()

    def leave_with_engines() -> None:
        departure.ends_engines = True
        running.cancel()

    loop.add_signal_handler(signal.SIGTERM, running.cancel)
    loop.add_signal_handler(signal.SIGINT, leave_with_engines)
    if parent_fd is not None:
        os.set_blocking(parent_fd, False)
        loop.add_reader(parent_fd, _on_parent, loop, parent_fd, leave_with_engines)
    with suppress(asyncio.CancelledError):
        await running


def _on_parent(loop: asyncio.AbstractEventLoop, parent_fd: int, leave: Callable[[], None]) -> None:
    with suppress(BlockingIOError):
        if not os.read(parent_fd, 1024):
            loop.remove_reader(parent_fd)
            leave()


if __name__ == "__main__":
    main()
