"""`tuneyard engine`: one engine worker for a service on another machine, kept running.

It needs the model's files here and nothing of the service's: requests, and adapters, come over the
connection. What it keeps is under the settings' `data` (adapters, logs, its spec file).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from server.cli.children import Child, ChildSpec
from server.config import Config
from server.config.addresses import is_loopback
from server.environments.locate import EnvironmentMissingError, engine_python
from server.logs import configure_logging
from server.supervisor.arriving import Arriving
from server.supervisor.engine_spec import ServedModel, engine_spec, write_spec
from server.supervisor.remote_slot import read_token

_CANNOT_START_STATUS = 1
_LEAVING_S = 10.0
"""Beyond the drain, for the worker to end."""


@dataclass(frozen=True, slots=True)
class HostedEngine:
    """What the command line says."""

    model: str
    listen: str
    token_file: Path
    drain_timeout_s: float
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False


async def run_engine(config: Config, options: HostedEngine, console: Console) -> int:
    """Until SIGINT or SIGTERM; gives the exit status."""
    configure_logging("engine", logging.WARNING)
    try:
        child = Child(await _child_spec(config, options))
    except (OSError, ValueError, EnvironmentMissingError) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return _CANNOT_START_STATUS
    told: asyncio.Queue[None] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.put_nowait, None)
    running = asyncio.create_task(child.run())
    console.print(f"Serving {options.model} at {options.listen}; log: {child.spec.log}")
    await told.get()
    console.print("Stopping when idle; once more to stop at once ...")
    stopping = asyncio.create_task(child.stop())
    hurrying = asyncio.create_task(told.get())
    await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        child.hurry()
    hurrying.cancel()
    await stopping
    running.cancel()
    await asyncio.gather(running, hurrying, return_exceptions=True)
    return 0


async def _child_spec(config: Config, options: HostedEngine) -> ChildSpec:
    """Raises OSError, ValueError, EnvironmentMissingError."""
    entry = config.model(options.model)
    if entry is None:
        known = ", ".join(entry.id for entry in config.models)
        raise ValueError(f"The settings have no model {options.model!r}, only: {known}.")
    _check_listening(options)
    token = read_token(options.token_file)
    python = engine_python(entry.engine.value, entry.python)
    name = f"hosted-{options.listen.rpartition(':')[2]}"
    adapters_dir = config.data / "hosted-adapters"
    for folder in (config.run_dir, config.data / "logs", adapters_dir):
        folder.mkdir(parents=True, exist_ok=True)
    path = str(await Arriving(config.run_dir).directory(entry))
    served = ServedModel(entry.id, path, entry, config.templates)
    spec_path = config.run_dir / f"{name}.json"

    def command(parent_fd: int) -> list[str]:
        spec = engine_spec(served, options.listen, parent_fd)
        own: dict[str, Any] = {"token": token, "adapters_dir": str(adapters_dir)}
        for name in ("tls_cert", "tls_key"):
            file: Path | None = getattr(options, name)
            own[name] = None if file is None else str(file.resolve())
        write_spec(spec_path, {**spec, **own, "drain_timeout_s": options.drain_timeout_s})
        return [python, "-m", "workers.engine", "--spec", str(spec_path)]

    log = config.data / "logs" / f"{name}.log"
    return ChildSpec(name, command, log, grace_s=options.drain_timeout_s + _LEAVING_S)


def _check_listening(options: HostedEngine) -> None:
    """Raises OSError, ValueError."""
    scheme, _, where = options.listen.partition(":")
    if scheme != "tcp":
        raise ValueError("--listen must be tcp:HOST:PORT")
    if options.tls_cert is None:
        if options.tls_key is not None:
            raise ValueError("--tls-key needs --tls-cert")
        if not options.insecure and not is_loopback(where.rpartition(":")[0]):
            raise ValueError(
                f"At {options.listen} the token and all that is generated could be read on the "
                "way: give a certificate with --tls-cert (and --tls-key), or --insecure for a "
                "private network or a tunnel."
            )
        return
    if options.insecure:
        raise ValueError("--insecure and --tls-cert contradict each other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except OSError as error:
        raise ValueError(f"--tls-cert and --tls-key cannot be used: {error}") from error
