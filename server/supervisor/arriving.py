"""Brings configured models here from their hubs: one download for each model, whoever waits for it,
tried again until it succeeds."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path
from threading import Event

from server.config import ModelEntry
from server.hubs.arrivals import Arrival, write_arrivals
from server.hubs.cache import FetchStoppedError
from server.hubs.download import Fetch
from server.hubs.model import HubError, HubModel
from server.hubs.places import hub_model

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 1.0
LAST_BACKOFF_S = 60.0
"""Between tries: a model that is gated or mistyped now may be had once the operator has seen to it.
"""
REPORT_INTERVAL_S = 0.5
_LOG_EVERY_PERCENT = 10


class Arriving:
    """`run` must run for `directory` to be told of in the report."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._arrivals: dict[str, Arrival] = {}
        self._fetches: dict[HubModel, asyncio.Task[Path]] = {}
        self._stop = Event()
        self._written: list[Arrival] | None = None

    async def run(self) -> None:
        """Reports until cancelled; downloads stop then, and go on at the next start."""
        try:
            while True:
                self._write()
                await asyncio.sleep(REPORT_INTERVAL_S)
        finally:
            self._stop.set()

    async def directory(self, entry: ModelEntry) -> Path:
        """The model's local directory, once it is there."""
        model = hub_model(entry)
        if model is None:
            return Path(entry.path)
        backoff_s = FIRST_BACKOFF_S
        self._arrivals[entry.id] = Arrival(entry.id, str(model))
        while True:
            try:
                directory = await self._fetched(model, entry.id)
            except HubError as error:
                logger.error(
                    "model not downloaded", extra={"model": entry.id, "reason": str(error)}
                )
                self._arrivals[entry.id] = Arrival(entry.id, str(model), error=str(error))
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)
                continue
            del self._arrivals[entry.id]
            self._write()
            return directory

    async def _fetched(self, model: HubModel, model_id: str) -> Path:
        """Entries of the same model wait for the same download. Raises HubError."""
        running = self._fetches.get(model)
        if running is None:
            running = self._fetches[model] = asyncio.create_task(self._fetch(model, model_id))
            running.add_done_callback(lambda _: self._fetches.pop(model, None))
        return await asyncio.shield(running)

    async def _fetch(self, model: HubModel, model_id: str) -> Path:
        begun = time.monotonic()
        logged = -_LOG_EVERY_PERCENT

        def report(done_bytes: int, total_bytes: int) -> None:
            nonlocal logged
            arrival = Arrival(model_id, str(model), done_bytes, total_bytes)
            self._arrivals[model_id] = arrival
            percent = 100 * done_bytes // max(total_bytes, 1)
            if percent >= logged + _LOG_EVERY_PERCENT:
                logged = percent
                logger.info(arrival.state, extra={"model": model_id, "bytes": done_bytes})

        try:
            directory = await asyncio.to_thread(Fetch(model, report, self._stop).run)
        except FetchStoppedError:
            raise asyncio.CancelledError from None
        except OSError as error:
            raise HubError(f"{model} cannot be kept in {model.cache_dir}: {error}") from error
        took_s = round(time.monotonic() - begun, 3)
        logger.info(
            "model downloaded",
            extra={"model": model_id, "directory": str(directory), "took_s": took_s},
        )
        return directory

    def _write(self) -> None:
        arrivals = list(self._arrivals.values())
        if arrivals != self._written:
            with suppress(OSError):  # a full disk: the next report tells it
                write_arrivals(self._run_dir, arrivals)
                self._written = arrivals
