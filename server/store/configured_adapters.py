"""Adapters that model entries name: public rows whose content may change under one id.

An engine's name and number for an adapter are never given to other weights. So a version that goes
(its files changed, or it left the configuration) keeps its row, deleted, under the name that
engines know it by: workers that still hold it are told to drop it by that name, its directory is
tidied away as any deleted model's, and it keeps its number if it comes back.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.database import Database
from server.store.models import insert_model, model_of, next_adapter_uid
from server.store.records import Model, ModelKind
from server.store.tables import models

_IS_CONFIGURED = (models.c.kind == ModelKind.ADAPTER) & models.c.project_id.is_(None)


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """`path` is a directory named by its content."""

    id: str
    base: str
    path: str
    owned_by: str


class ConfiguredAdapters:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, version: AdapterVersion) -> Model:
        """Makes the version what its id answers with; the time the id was first seen stays."""
        async with self._database.write() as connection:
            created_at = int(time.time())
            known = await _find(connection, version.id)
            if known is not None:
                created_at = known.created_at
                if (known.base, known.path) == (version.base, version.path):
                    await _set_owner(connection, version)
                    return known
                await _retire(connection, known)
            # A base model of that name that is no longer configured.
            await connection.execute(
                delete(models).where(models.c.id == version.id, models.c.kind == ModelKind.BASE)
            )
            return await _register(connection, version, created_at)

    async def retire(self, adapter_id: str) -> None:
        """Takes the id out of use."""
        async with self._database.write() as connection:
            known = await _find(connection, adapter_id)
            if known is not None:
                await _retire(connection, known)

    async def retire_others(self, configured: Collection[str]) -> None:
        """Takes out of use all that are no longer configured."""
        query = select(models).where(_IS_CONFIGURED, models.c.deleted_at.is_(None))
        async with self._database.write() as connection:
            for row in (await connection.execute(query)).all():
                if row.id not in configured:
                    await _retire(connection, model_of(row))


async def _find(connection: AsyncConnection, adapter_id: str) -> Model | None:
    query = select(models).where(
        models.c.id == adapter_id, _IS_CONFIGURED, models.c.deleted_at.is_(None)
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else model_of(row)


async def _set_owner(connection: AsyncConnection, version: AdapterVersion) -> None:
    await connection.execute(
        update(models).where(models.c.id == version.id).values(owned_by=version.owned_by)
    )


async def _retire(connection: AsyncConnection, model: Model) -> None:
    await connection.execute(
        update(models)
        .where(models.c.id == model.id)
        .values(id=model.adapter_name, deleted_at=int(time.time()))
    )


async def _register(connection: AsyncConnection, version: AdapterVersion, created_at: int) -> Model:
    """One that was here before has the number that it had."""
    model = Model(
        id=version.id,
        project_id=None,
        kind=ModelKind.ADAPTER,
        parent=version.base,
        base=version.base,
        engine_model=version.base,
        path=version.path,
        adapter_uid=None,
        created_at=created_at,
        owned_by=version.owned_by,
        job_id=None,
    )
    before = models.c.id == model.adapter_name
    uid = await connection.scalar(select(models.c.adapter_uid).where(before))
    await connection.execute(delete(models).where(before))
    uid = uid if uid is not None else await next_adapter_uid(connection)
    model = replace(model, adapter_uid=uid)
    await insert_model(connection, model)
    return model
