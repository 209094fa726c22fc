"""A batch from its claim to its end, on the gateway that holds its lease.

What is known of a batch is its row, its input and its journal: any gateway goes on from them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path

from server.auth import Principal
from server.batches.input_file import Line, check_input, read_lines
from server.batches.journal import Journal
from server.batches.lines import LineRunner
from server.batches.results import ResultFiles, ended_lines, expired_lines
from server.blobs import Blobs, StorageFullError
from server.errors import ApiError
from server.models.catalog import Catalog
from server.store import Store, StoreUnavailableError
from server.store.batches import Batch, BatchCounts, BatchStatus, LeaseLostError

LEASE_S = 15.0
REPORT_INTERVAL_S = 1.0


def input_key(batch_id: str) -> str:
    """Of the batch's own copy of its input file."""
    return f"batches/{batch_id}"


@dataclass(frozen=True, slots=True)
class RunServices:
    """`lines_at_once` of one batch are in memory at a time."""

    store: Store
    blobs: Blobs
    catalog: Catalog
    lines: LineRunner
    lines_at_once: int
    folder: Path
    owner: str


class BatchRun:
    def __init__(self, services: RunServices, batch: Batch) -> None:
        self._services = services
        self._batch = batch
        self._rows = services.store.batches
        self._journal: Journal | None = None
        self._is_cancelled = asyncio.Event()
        if batch.status is BatchStatus.CANCELLING:
            self._is_cancelled.set()

    async def run(self) -> None:
        """Raises LeaseLostError and JournalInUseError when another has it."""
        working = asyncio.create_task(self._work())
        reporting = asyncio.create_task(self._report())
        tasks = {working, reporting}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._journal is not None:
                await self._journal.close()
        for task in done:
            task.result()
        if self._journal is not None:
            self._journal.remove()
        await self._services.blobs.delete(input_key(self._batch.id))

    async def _report(self) -> None:
        """Renews the lease, tells the counts and learns of a cancellation. Raises LeaseLostError
        as soon as somebody else may have the batch."""
        renewed_at = time.monotonic()
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            counts = self._batch.counts if self._journal is None else self._journal.counts
            asked_at = time.monotonic()
            try:
                status = await self._rows.report(
                    self._batch.id, self._services.owner, LEASE_S, counts
                )
                if status is not BatchStatus.CANCELLING and await self._principal() is None:
                    await self._rows.cancel(self._batch.project_id, self._batch.id)
                renewed_at = asked_at
            except (StoreUnavailableError, StorageFullError):
                if time.monotonic() - renewed_at > LEASE_S - 2 * REPORT_INTERVAL_S:
                    raise LeaseLostError from None
                continue
            if status is BatchStatus.CANCELLING:
                self._is_cancelled.set()

    async def _principal(self) -> Principal | None:
        """Who created it; None once the key is revoked or has expired."""
        key = await self._services.store.keys.get(self._batch.project_id, self._batch.key_id)
        if key is None or (key.expires_at is not None and key.expires_at <= time.time()):
            return None
        return Principal(key.id, key.project, key.scopes, key.models, key.rate_limits)

    async def _work(self) -> None:
        batch = self._batch
        principal = await self._principal()
        if principal is None:
            await self._rows.cancel(batch.project_id, batch.id)
            self._is_cancelled.set()
        if batch.status is BatchStatus.VALIDATING and principal is not None:
            total = await self._validate(principal)
            if total is None:
                return
        else:
            total = batch.total
        path = self._services.folder / batch.id
        self._journal = journal = await asyncio.to_thread(Journal, path)
        if principal is not None and batch.status is not BatchStatus.CANCELLING:
            await self._run_until_stopped(principal, journal)
        await journal.drain()
        if self._is_cancelled.is_set():
            await self._end(journal, BatchStatus.CANCELLED)
        elif len(journal.done) < total:
            await self._end(journal, BatchStatus.EXPIRED)
        elif (
            await self._rows.finalize(batch.id, self._services.owner)
            or batch.status is BatchStatus.FINALIZING
        ):
            await self._end(journal, BatchStatus.COMPLETED)
        else:
            await self._end(journal, BatchStatus.CANCELLED)

    async def _validate(self, principal: Principal) -> int | None:
        """The number of lines; None if the batch has failed."""
        batch, services = self._batch, self._services
        check = await check_input(services.blobs, input_key(batch.id), batch.endpoint)
        errors = check.errors
        if not errors and check.model is not None:
            try:
                await services.catalog.find(check.model, principal)
            except ApiError as error:
                told = {"message": error.message, "param": "body.model", "line": 1}
                errors = [{"code": error.code or "model_not_found", **told}]
        if errors or check.model is None:
            await self._rows.end(batch, services.owner, BatchStatus.FAILED, errors=errors)
            return None
        if not await self._rows.begin(batch.id, services.owner, check.model, check.num_lines):
            self._is_cancelled.set()
        return check.num_lines

    async def _run_until_stopped(self, principal: Principal, journal: Journal) -> None:
        """Until all lines have ended, or the batch is cancelled or expires."""
        running = asyncio.create_task(self._run_lines(principal, journal))
        cancelled = asyncio.create_task(self._is_cancelled.wait())
        try:
            await asyncio.wait(
                {running, cancelled},
                timeout=max(0.0, self._batch.expires_at - time.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            cancelled.cancel()
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    async def _run_lines(self, principal: Principal, journal: Journal) -> None:
        room = asyncio.Semaphore(self._services.lines_at_once)
        async with (
            asyncio.TaskGroup() as group,
            aclosing(self._lines_to_run(journal)) as lines,
        ):
            async for line in lines:
                await room.acquire()
                task = group.create_task(self._run_line(principal, journal, line))
                task.add_done_callback(lambda _: room.release())

    async def _run_line(self, principal: Principal, journal: Journal, line: Line) -> None:
        result = await self._services.lines.run(self._batch.endpoint, principal, line)
        await journal.add(result)

    async def _lines_to_run(self, journal: Journal) -> AsyncGenerator[Line]:
        key = input_key(self._batch.id)
        async with aclosing(read_lines(self._services.blobs, key)) as groups:
            async for lines in groups:
                for line in lines:
                    if line.number not in journal.done:
                        yield line

    async def _end(self, journal: Journal, status: BatchStatus) -> None:
        batch, blobs = self._batch, self._services.blobs
        files = ResultFiles(blobs, batch)
        try:
            async for result in ended_lines(journal):
                await files.add(result)
            if status is BatchStatus.EXPIRED:
                async for result in expired_lines(blobs, input_key(batch.id), journal):
                    await files.add(result)
            output, errors_file = await files.commit()
            counts: BatchCounts = files.counts
            await self._rows.end(
                batch,
                self._services.owner,
                status,
                counts=counts,
                output=output,
                errors_file=errors_file,
            )
        finally:
            await files.discard()
