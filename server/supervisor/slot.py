"""What is the same of every worker that is kept in service, wherever it runs."""

from __future__ import annotations

import asyncio

from server.engines.client import EngineConnection


class Slot:
    def __init__(self) -> None:
        self._connection: EngineConnection | None = None
        self.ready = asyncio.Event()

    @property
    def connection(self) -> EngineConnection | None:
        """To a worker that is ready; None while there is none."""
        connection = self._connection
        return None if connection is None or connection.closed else connection
