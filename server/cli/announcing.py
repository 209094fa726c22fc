"""What the terminal of `tuneyard serve` shows: models on their way, "Ready", and engines that do
not start, whenever that is."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from server.engines.start_failures import Part, StartFailure, read_failures
from server.hubs.arrivals import Arrival

_POLL_S = 0.2


async def announce_ready(base_url: str, console: Console) -> None:
    """One line when everything configured is up; until then, how far each download is."""
    downloads = Downloads(console)
    try:
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
            while True:
                with suppress(httpx.HTTPError):
                    answer = await client.get(f"{base_url}/readyz")
                    if answer.is_success:
                        break
                    downloads.show(_arrivals(answer))
                await asyncio.sleep(_POLL_S)
    finally:
        downloads.close()
    for warning in answer.json()["warnings"]:
        line = f"Warning: {warning}"
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Ready: {base_url}/v1", markup=False, highlight=False)


async def announce_failures(run_dir: Path, console: Console) -> None:
    """Until cancelled: one notice for each engine or adapter and reason, however often it is tried
    again."""
    begun = time.time()
    told: dict[Part, str] = {}
    while True:
        failures = {failure.part: failure for failure in read_failures(run_dir)}
        for part, failure in failures.items():
            if failure.failed_at >= begun and told.get(part) != failure.reason:
                told[part] = failure.reason
                for line in _notice(failure):
                    console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
        told = {part: reason for part, reason in told.items() if part in failures}
        await asyncio.sleep(_POLL_S)


def _notice(failure: StartFailure) -> list[str]:
    if failure.part.adapter is not None:
        return [
            f"The {failure.part} is not served: {failure.reason}",
            "  The model itself is. Mend the adapter or its entry, and start tuneyard again.",
        ]
    lines = [f"The {failure.part} does not start: {failure.reason}"]
    if failure.log is not None:
        lines.append(f"  Its log: {failure.log}")
    lines.append(
        "  It is tried again by itself. Mend the model's files or its engine's environment; after "
        "a change of the settings, start tuneyard again."
    )
    return lines


def _arrivals(answer: httpx.Response) -> list[Arrival]:
    told = answer.json().get("downloads", []) if answer.status_code == 503 else []
    for arrival in told:
        del arrival["state"]
    return [Arrival(**arrival) for arrival in told]


class Downloads:
    """Bars where there is a terminal; where there is none, a line at the start, the end and every
    failure."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._seen: dict[str, Arrival] = {}
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def show(self, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            before = self._seen.get(arrival.model)
            if before is None:
                self._say(f"{arrival.model}: downloading {arrival.source}")
            if arrival.error is not None and (before is None or before.error != arrival.error):
                self._say(f"{arrival.model}: {arrival.error} Trying again.", style="red")
            self._seen[arrival.model] = arrival
            self._draw(arrival)
        here = self._seen.keys() - {arrival.model for arrival in arrivals}
        for model in sorted(here):
            self._say(f"{model}: downloaded")
            del self._seen[model]
            self._bars.update(self._tasks.pop(model), visible=False)

    def close(self) -> None:
        self._bars.stop()

    def _draw(self, arrival: Arrival) -> None:
        if arrival.model not in self._tasks:
            self._bars.start()
            self._tasks[arrival.model] = self._bars.add_task(arrival.model, total=None)
        self._bars.update(
            self._tasks[arrival.model],
            completed=arrival.done_bytes,
            total=arrival.total_bytes or None,
        )

    def _say(self, line: str, style: str | None = None) -> None:
        self._console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
