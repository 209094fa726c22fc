"""The registry of what can be chatted with."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, bindparam, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.audit import write_audit
from server.store.counters import raise_counter
from server.store.database import Database
from server.store.records import Actor, Model, ModelKind
from server.store.tables import checkpoint_permissions, model_aliases, models

_ADAPTER_UIDS = "adapter_uid"


EVERYBODY = ""
"""Whose the aliases of the configuration are."""


def _shared_with(project_id: Any) -> ColumnElement[bool]:
    return exists().where(
        checkpoint_permissions.c.model_id == models.c.id,
        checkpoint_permissions.c.project_id == project_id,
    )


def usable_by(project_id: Any) -> tuple[ColumnElement[bool], ...]:
    """Conditions of models that a project may use: public, its own, or shared with it."""
    visible = or_(
        models.c.project_id.is_(None),
        models.c.project_id == project_id,
        _shared_with(project_id),
    )
    return visible, models.c.deleted_at.is_(None)


_USABLE = select(models).where(
    models.c.id == bindparam("model_id"), *usable_by(bindparam("project_id"))
)
_ALIASED = select(models).where(
    models.c.id
    == select(model_aliases.c.points_to)
    .where(
        model_aliases.c.name == bindparam("model_id"),
        or_(
            model_aliases.c.owner == EVERYBODY,
            model_aliases.c.owner == bindparam("project_id"),
        ),
    )
    .order_by(model_aliases.c.owner.desc())
    .limit(1)
    .scalar_subquery(),
    *usable_by(bindparam("project_id")),
)


class Models:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, model_id: str, project_id: str) -> Model | None:
        """The model of that id or alias, if the project may use it."""
        for query in (_USABLE, _ALIASED):
            rows = await self._database.look_up(query, model_id=model_id, project_id=project_id)
            if rows:
                return model_of(rows[0])
        return None

    async def list_for(self, project_id: str) -> tuple[Model, ...]:
        """All that the project may use, oldest first; its own checkpoints are not listed (they are
        found through their job), yet answer to their ids."""
        listed = or_(models.c.kind != ModelKind.CHECKPOINT, _shared_with(project_id))
        query = (
            select(models)
            .where(*usable_by(project_id), listed)
            .order_by(models.c.created_at, models.c.id)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return tuple(model_of(row) for row in rows)

    async def list_whole_fine_tunes(self) -> tuple[tuple[Model, float], ...]:
        """Every tenant's full fine-tunes and their checkpoints, each with the time it was last
        wanted (0 for never), the latest first: each needs an engine worker of its own."""
        query = (
            select(models)
            .where(
                models.c.kind.in_([ModelKind.FULL, ModelKind.CHECKPOINT]),
                models.c.adapter_uid.is_(None),
                models.c.deleted_at.is_(None),
            )
            .order_by(models.c.wanted_at.desc().nulls_last(), models.c.id)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return tuple((model_of(row), row.wanted_at or 0.0) for row in rows)

    async def want(self, model_id: str) -> None:
        """A request asks for the model now: its engine worker is to run."""
        async with self._database.write() as connection:
            await connection.execute(
                update(models).where(models.c.id == model_id).values(wanted_at=time.time())
            )

    async def list_removable_paths(self) -> frozenset[str]:
        """Directories of deleted fine-tunes that no other model shares."""
        live = select(models.c.path).where(models.c.deleted_at.is_(None))
        query = select(models.c.path).where(
            models.c.deleted_at.is_not(None),
            models.c.kind != ModelKind.BASE,
            models.c.path != "",
            models.c.path.not_in(live),
        )
        async with self._database.read() as connection:
            return frozenset((await connection.scalars(query)).all())

    async def forget_path(self, path: str) -> None:
        """The directory is gone."""
        async with self._database.write(makes_room=True) as connection:
            await connection.execute(
                update(models)
                .where(models.c.path == path, models.c.deleted_at.is_not(None))
                .values(path="")
            )

    async def put_base(self, model_id: str, path: str, owned_by: str, created_at: int) -> None:
        """Registers a configured model; the time it was first seen stays."""
        values = {
            "kind": ModelKind.BASE.value,
            "base": model_id,
            "engine_model": model_id,
            "path": path,
            "owned_by": owned_by,
            "deleted_at": None,
        }
        async with self._database.write() as connection:
            known = await connection.execute(
                update(models).where(models.c.id == model_id).values(**values)
            )
            if known.rowcount == 0:
                await connection.execute(
                    models.insert().values(id=model_id, created_at=created_at, **values)
                )

    async def retire_bases(self, configured: list[str]) -> None:
        """Takes base models that are no longer configured out of the list."""
        async with self._database.write() as connection:
            await connection.execute(
                update(models)
                .where(
                    models.c.kind == ModelKind.BASE,
                    models.c.id.not_in(configured),
                    models.c.deleted_at.is_(None),
                )
                .values(deleted_at=int(time.time()))
            )

    async def delete(self, model_id: str, project_id: str, by: Actor | None = None) -> Model | None:
        """Deletes a project's own fine-tune and returns what it was; None if there is none."""
        async with self._database.write(makes_room=True) as connection:
            query = (
                update(models)
                .where(
                    models.c.id == model_id,
                    models.c.project_id == project_id,
                    models.c.kind != ModelKind.BASE,
                    models.c.deleted_at.is_(None),
                )
                .values(deleted_at=int(time.time()))
                .returning(*models.c)
            )
            row = (await connection.execute(query)).one_or_none()
            if row is not None and by is not None:
                details = {"id": model_id, "resource_type": "model"}
                await write_audit(connection, by, "resource.deleted", project_id, details)
        return None if row is None else model_of(row)

    async def list_deleted(self, model_ids: Collection[str]) -> frozenset[str]:
        """Those among the given that are gone."""
        query = select(models.c.id).where(
            models.c.id.in_(model_ids), models.c.deleted_at.is_not(None)
        )
        async with self._database.read() as connection:
            return frozenset((await connection.scalars(query)).all())

    async def next_adapter_uid(self) -> int:
        """A number no adapter has or had."""
        async with self._database.write() as connection:
            return await next_adapter_uid(connection)


def model_of(row: Any) -> Model:
    return Model(
        id=row.id,
        project_id=row.project_id,
        kind=ModelKind(row.kind),
        parent=row.parent,
        base=row.base,
        engine_model=row.engine_model,
        path=row.path,
        adapter_uid=row.adapter_uid,
        created_at=row.created_at,
        owned_by=row.owned_by,
        job_id=row.job_id,
    )


async def insert_model(
    connection: AsyncConnection, model: Model, wanted_at: float | None = None
) -> None:
    """Within a writing transaction. Ids are random, so a clash is a fault and raises."""
    await connection.execute(
        models.insert().values(
            id=model.id,
            project_id=model.project_id,
            kind=model.kind.value,
            parent=model.parent,
            base=model.base,
            engine_model=model.engine_model,
            path=model.path,
            adapter_uid=model.adapter_uid,
            created_at=model.created_at,
            owned_by=model.owned_by,
            job_id=model.job_id,
            wanted_at=wanted_at,
        )
    )


async def next_adapter_uid(connection: AsyncConnection) -> int:
    """Within a writing transaction; the migration made the counter's row."""
    value = await raise_counter(connection, _ADAPTER_UIDS)
    if value is None:
        raise LookupError("the adapter counter is missing")
    return value
