"""A batch's output and error file, made of its journal."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from itertools import islice

from server.batches.input_file import read_lines
from server.batches.journal import Journal, Result
from server.batches.lines import expired_record
from server.blobs import Blobs, BlobWriter
from server.files.schemas import BATCH_EXPIRY_S, BATCH_OUTPUT_PURPOSE
from server.store.batches import Batch, BatchCounts
from server.store.records import File

_READ_AT_ONCE = 16
"""Results."""


async def ended_lines(journal: Journal) -> AsyncIterator[Result]:
    results = journal.results()
    while some := await asyncio.to_thread(lambda: list(islice(results, _READ_AT_ONCE))):
        for result in some:
            yield result


async def expired_lines(blobs: Blobs, key: str, journal: Journal) -> AsyncIterator[Result]:
    """Of the lines that have not ended."""
    async with aclosing(read_lines(blobs, key)) as groups:
        async for lines in groups:
            for line in lines:
                if line.number not in journal.done:
                    yield Result(line.number, BatchCounts(failed=1), expired_record(line))


class ResultFiles:
    """What a crash has left of an earlier try is written over: the names are the batch's."""

    def __init__(self, blobs: Blobs, batch: Batch) -> None:
        self._blobs = blobs
        self._batch = batch
        self._writers: dict[str, tuple[BlobWriter, File]] = {}
        self.counts = BatchCounts()

    async def add(self, result: Result) -> None:
        self.counts = self.counts.plus(result.counts)
        kind = "output" if result.counts.completed else "error"
        if kind not in self._writers:
            file = self._file(kind)
            self._writers[kind] = await self._blobs.create(file.blob), file
        writer, file = self._writers[kind]
        await writer.write(result.record + b"\n")
        num_bytes = file.num_bytes + len(result.record) + 1
        self._writers[kind] = writer, replace(file, num_bytes=num_bytes)

    async def commit(self) -> tuple[File | None, File | None]:
        """Output and error file; None for one without lines."""
        for writer, _ in self._writers.values():
            await writer.commit()
        files = {kind: file for kind, (_, file) in self._writers.items()}
        return files.get("output"), files.get("error")

    async def discard(self) -> None:
        """After `commit` it does nothing."""
        for writer, _ in self._writers.values():
            await writer.discard()

    def _file(self, kind: str) -> File:
        batch = self._batch
        digest = hashlib.blake2b(f"{batch.id} {kind}".encode(), digest_size=12).hexdigest()
        created_at = int(time.time())
        return File(
            id=f"file-{digest}",
            project_id=batch.project_id,
            filename=f"{batch.id}_{kind}.jsonl",
            purpose=BATCH_OUTPUT_PURPOSE,
            num_bytes=0,
            status="processed",
            status_details=None,
            created_at=created_at,
            expires_at=created_at + (batch.output_expires_s or BATCH_EXPIRY_S),
            blob=f"file-{digest}",
        )
