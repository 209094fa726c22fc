"""The files of one job: what it trains on, what training leaves, and the table it results in."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

from server.blobs import Blobs
from server.files.schemas import RESULTS_PURPOSE
from server.store.identifiers import random_id
from server.store.records import File, Job
from server.supervisor.job_rows import FileKind, fetch_rows, kinds_of, rows_path
from server.supervisor.run_log import step_metrics_csv
from workers.contract.training import PICTURES


class JobFiles:
    """`folder` is the job's own."""

    def __init__(self, job: Job, folder: Path, blobs: Blobs) -> None:
        self._job = job
        self._dir = folder
        self._blobs = blobs

    async def fetch(self) -> None:
        """Brings the data to where the trainer reads it."""
        self._dir.mkdir(parents=True, exist_ok=True)
        for kind in kinds_of(self._job.plan):
            if not rows_path(self._dir, kind).exists():
                await fetch_rows(self._job.plan, kind, self._dir, self._blobs)

    async def write_results(self) -> tuple[File, ...]:
        """The metrics of every step, and their curves where they were drawn; stored, and not
        registered yet."""
        table = await asyncio.to_thread(step_metrics_csv, self._dir / "events.ndjson")
        contents = {"step_metrics.csv": table}
        for name in PICTURES:
            if (path := self._dir / name).is_file():
                contents[name] = await asyncio.to_thread(path.read_bytes)
        stored: list[File] = []
        try:
            for name, content in contents.items():
                stored.append(await self._write_result(name, content))
        except BaseException:
            for file in stored:
                await self._blobs.delete(file.blob)
            raise
        return tuple(stored)

    async def _write_result(self, filename: str, content: bytes) -> File:
        file_id = random_id("file-")
        writer = await self._blobs.create(file_id)
        try:
            await writer.write(content)
            await writer.commit()
        finally:
            await writer.discard()
        return File(
            id=file_id,
            project_id=self._job.project_id,
            filename=filename,
            purpose=RESULTS_PURPOSE,
            num_bytes=len(content),
            status="processed",
            status_details=None,
            created_at=int(time.time()),
            expires_at=None,
            blob=file_id,
        )

    async def remove(self) -> None:
        """Logs and events stay; what only training needed goes."""
        for name in ("state", "checkpoints", "model"):
            await asyncio.to_thread(shutil.rmtree, self._dir / name, ignore_errors=True)
        await self._remove_data()

    async def _remove_data(self) -> None:
        for kind in FileKind:
            for path in self._dir.glob(f"{kind}.*"):
                path.unlink(missing_ok=True)
        for blob in (self._job.plan.training_blob, self._job.plan.validation_blob):
            if blob is not None:
                await self._blobs.delete(blob)
