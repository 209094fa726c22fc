"""Checks the files of one claimed job and queues it, or fails it with all that is wrong."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from server.blobs import Blobs
from server.config import Config
from server.datasets.prepared import Prepared
from server.fine_tuning.hyperparameters import given_of, settle
from server.store import Store
from server.store.records import EventLevel, Job, JobError, JobStatus, NewEvent
from server.supervisor.job_rows import FileKind, fetch_rows, rows_path
from server.supervisor.patience import passes
from server.supervisor.validation import (
    ChatRows,
    InvalidFileError,
    ValidFile,
    invalid_file,
    validate_training_file,
    validate_validation_file,
)
from templates.example_lines import ExampleFileError
from templates.format import AS_IT_IS, ChatFormat, FormatSettings
from templates.own_templates import read_own_tokenizer
from templates.registry import open_format
from templates.training import MaskOptions

logger = logging.getLogger(__name__)


async def check_job(job: Job, owner: str, config: Config, store: Store, blobs: Blobs) -> None:
    """All its events are written with the outcome, so that a check begun twice is told once.
    Raises what passes, and then nothing is written. A job that was cancelled meanwhile is given
    up."""
    statuses = await store.progress.statuses(owner)
    if statuses.get(job.id) is not JobStatus.VALIDATING_FILES:
        await store.progress.release(owner, job.id)
        return
    plan = job.plan
    files = f"training file: {plan.training_file}"
    if plan.validation_file is not None:
        files += f" and validation file: {plan.validation_file}"
    events = [NewEvent(f"Validating {files}")]
    try:
        training, validation = await _validate(job, config, blobs)
    except InvalidFileError as invalid:
        await _fail(job, owner, store, blobs, invalid.error, events)
        return
    except Exception as fault:
        if passes(fault):
            raise
        logger.exception("validation failed", extra={"job": job.id})
        error = JobError("internal_error", "The files could not be read.")
        await _fail(job, owner, store, blobs, error, events)
        return
    warnings = [*training.warnings, *(() if validation is None else validation.warnings)]
    if training.num_shared:
        warnings.append(
            f"{training.num_shared} example(s) of the validation file also appear in the training "
            "file"
        )
    events += [NewEvent(message, EventLevel.WARN) for message in warnings]
    settled = settle(given_of(job), training.num_examples).model_dump(mode="json")
    events.append(NewEvent("Files validated, moving job to queued state"))
    await store.progress.accept(owner, job.id, settled, events)


async def _fail(
    job: Job, owner: str, store: Store, blobs: Blobs, error: JobError, events: list[NewEvent]
) -> None:
    events.append(NewEvent(error.message, EventLevel.ERROR))
    failed = await store.progress.fail(owner, job.id, error, events)
    await store.progress.release(owner, job.id)
    if failed:
        for blob in (job.plan.training_blob, job.plan.validation_blob):
            if blob is not None:
                await blobs.delete(blob)


async def _validate(job: Job, config: Config, blobs: Blobs) -> tuple[ValidFile, ValidFile | None]:
    """The validation file first, since only its rows are remembered. Raises InvalidFileError."""
    folder = config.jobs_dir / job.id
    chats = _chat_rows(job, config)
    held_out: ValidFile | None = None
    if job.plan.validation_blob is not None:
        prepared = await _rows(job, FileKind.VALIDATION, folder, blobs)
        path = rows_path(folder, FileKind.VALIDATION)
        held_out = await asyncio.to_thread(validate_validation_file, path, chats, prepared)
    prepared = await _rows(job, FileKind.TRAINING, folder, blobs)
    path = rows_path(folder, FileKind.TRAINING)
    digests = frozenset[bytes]() if held_out is None else held_out.digests
    valid = await asyncio.to_thread(validate_training_file, path, chats, digests, prepared)
    return valid, held_out


async def _rows(job: Job, kind: FileKind, folder: Path, blobs: Blobs) -> Prepared:
    """Raises InvalidFileError."""
    try:
        return await fetch_rows(job.plan, kind, folder, blobs)
    except ExampleFileError as error:
        raise invalid_file(kind, f"Invalid file format. {error}") from error


def _chat_rows(job: Job, config: Config) -> ChatRows:
    entry = config.model(job.plan.base)
    wanted = given_of(job)

    def open_chats() -> ChatFormat:
        return open_format(
            None if entry is None else entry.template,
            read_own_tokenizer(Path(job.plan.weights_path)),
            config.templates,
            AS_IT_IS if entry is None else FormatSettings(entry.default_system, entry.tool_format),
        )

    masks = MaskOptions(
        train_on_prompt=wanted.of("train_on_prompt"),
        mask_history=wanted.of("mask_history"),
        last_turn_only=wanted.method.last_answer_only,
    )
    return ChatRows(open_chats, masks, wanted.method.read)
