"""The rows of a job's files, brought to where they are read."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path

from server.blobs import Blobs
from server.datasets.prepared import Prepared, prepare_rows
from server.fine_tuning.dataset import layout_of
from server.fine_tuning.methods import METHODS
from server.store.records import JobPlan


class FileKind(StrEnum):
    TRAINING = "training"
    VALIDATION = "validation"


def rows_path(folder: Path, kind: FileKind) -> Path:
    return folder / f"{kind}.jsonl"


def kinds_of(plan: JobPlan) -> tuple[FileKind, ...]:
    """The files that the job has."""
    if plan.validation_blob is None:
        return (FileKind.TRAINING,)
    return (FileKind.TRAINING, FileKind.VALIDATION)


async def fetch_rows(plan: JobPlan, kind: FileKind, folder: Path, blobs: Blobs) -> Prepared:
    """Raises ExampleFileError, OSError."""
    blob, filename = plan.training_blob, plan.training_filename
    if kind is FileKind.VALIDATION:
        assert plan.validation_blob is not None, "the job has one"
        blob, filename = plan.validation_blob, plan.validation_filename
    upload = folder / f"{kind}.upload"
    await blobs.fetch(blob, upload)
    stage = METHODS[str(plan.method["type"])].stage
    return await asyncio.to_thread(
        prepare_rows, upload, filename, layout_of(plan.dataset), rows_path(folder, kind), stage
    )
