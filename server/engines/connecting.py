"""Connecting to an engine worker: a socket of this host, or TCP, in TLS if the address says so."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from server.engines.client import EngineConnection, EngineUnreachable

UNIX, TCP, TLS = "unix", "tcp", "tls"


async def connect_engine(
    engine_id: str, model_id: str, address: str, token: str | None, ca_file: Path | None = None
) -> EngineConnection:
    """Connects to `unix:/path`, `tcp:host:port` or `tls:host:port` and waits for the worker's
    hello. In TLS the worker must prove to be the host of the address, by a certificate that
    `ca_file` vouches for (None: this system's authorities). Raises EngineUnreachable."""
    loop = asyncio.get_running_loop()
    scheme, _, rest = address.partition(":")

    def make() -> EngineConnection:
        return EngineConnection(engine_id, model_id, token)

    try:
        if scheme == UNIX:
            _, connection = await loop.create_unix_connection(make, rest)
        elif scheme in (TCP, TLS):
            host, _, port = rest.rpartition(":")
            tls = ssl.create_default_context(cafile=ca_file) if scheme == TLS else None
            _, connection = await loop.create_connection(make, host.strip("[]"), int(port), ssl=tls)
        else:
            raise EngineUnreachable(f"unknown kind of address: {address}")
    except OSError as error:  # ssl's errors are some of them
        raise EngineUnreachable(str(error)) from error
    try:
        hello = await connection.opened()
    except BaseException:
        connection.close()
        raise
    if hello.model != model_id:
        connection.close()
        raise EngineUnreachable(f"the worker serves {hello.model!r}")
    return connection
