"""Rows of a job's checkpoints and the models they are; used within a writing transaction."""

from __future__ import annotations

import time

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.identifiers import random_id
from server.store.models import insert_model
from server.store.records import Model, NewCheckpoint
from server.store.tables import job_checkpoints, models


async def insert_checkpoint(
    connection: AsyncConnection, job_id: str, checkpoint: NewCheckpoint, model: Model
) -> None:
    """A step saved twice (a trainer went on from an earlier one) is the same checkpoint."""
    known = await connection.scalar(
        select(job_checkpoints.c.num).where(
            job_checkpoints.c.job_id == job_id, job_checkpoints.c.step == checkpoint.step
        )
    )
    if known is not None:
        return
    await connection.execute(
        job_checkpoints.insert().values(
            id=random_id("ftckpt_"),
            job_id=job_id,
            step=checkpoint.step,
            model_id=checkpoint.model_id,
            metrics=checkpoint.metrics,
            created_at=checkpoint.created_at,
        )
    )
    await insert_model(connection, model)


async def drop_checkpoints(connection: AsyncConnection, job_id: str, num_kept: int) -> None:
    """All but the newest go, with their models."""
    surplus = (
        select(job_checkpoints.c.model_id)
        .where(job_checkpoints.c.job_id == job_id)
        .order_by(job_checkpoints.c.step.desc())
        .offset(num_kept)
    )
    names = list((await connection.scalars(surplus)).all())
    if names:
        await connection.execute(
            update(models).where(models.c.id.in_(names)).values(deleted_at=int(time.time()))
        )
        await connection.execute(
            delete(job_checkpoints).where(job_checkpoints.c.model_id.in_(names))
        )
