"""Jobs, events and checkpoints between rows and records."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.identifiers import random_id
from server.store.metadata_pairs import insert_pairs
from server.store.records import (
    Checkpoint,
    EventLevel,
    Job,
    JobError,
    JobEvent,
    JobPlan,
    JobStatus,
    NewEvent,
)
from server.store.tables import job_events, job_metadata, jobs


def job_of(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        project_id=row.project_id,
        plan=JobPlan(**row.plan, metadata=row.metadata),
        status=JobStatus(row.status),
        created_at=row.created_at,
        finished_at=row.finished_at,
        estimated_finish=row.estimated_finish,
        fine_tuned_model=row.fine_tuned_model,
        hyperparameters=row.hyperparameters,
        trained_tokens=row.trained_tokens,
        result_files=tuple(row.result_files),
        error=None if row.error is None else JobError(**row.error),
        owner=row.owner,
        trainer_deaths=row.trainer_deaths,
        train_seq=row.train_seq,
    )


async def insert_job(connection: AsyncConnection, job: Job) -> None:
    plan = asdict(job.plan)
    metadata = plan.pop("metadata")
    await connection.execute(
        jobs.insert().values(
            id=job.id,
            project_id=job.project_id,
            plan=plan,
            metadata=metadata,
            status=job.status.value,
            created_at=job.created_at,
            hyperparameters=job.hyperparameters,
            result_files=[],
            trainer_deaths=job.trainer_deaths,
            train_seq=job.train_seq,
        )
    )
    await insert_pairs(connection, job_metadata.c.job_id, job.id, metadata)


def event_of(row: Row[Any]) -> JobEvent:
    return JobEvent(row.id, row.created_at, EventLevel(row.level), row.message, row.data)


def checkpoint_of(row: Row[Any]) -> Checkpoint:
    return Checkpoint(row.id, row.job_id, row.step, row.model_id, row.metrics, row.created_at)


async def insert_events(
    connection: AsyncConnection, job_id: str, events: Sequence[NewEvent]
) -> None:
    """In this order; all in one statement."""
    if not events:
        return
    now = int(time.time())
    await connection.execute(
        job_events.insert(),
        [
            {
                "id": random_id("ftevent-"),
                "job_id": job_id,
                "created_at": now if event.created_at is None else event.created_at,
                "level": event.level.value,
                "message": event.message,
                "data": event.data,
            }
            for event in events
        ],
    )
