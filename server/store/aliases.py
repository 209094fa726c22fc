"""Further names of models: the configuration's, for every project, and each project's own.

A model's own id comes before every alias, and a project's alias before the configuration's of the
same name. An alias whose model is gone finds nothing until it is moved or deleted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, Select, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.conflicts import insert_or
from server.store.database import Database
from server.store.models import EVERYBODY, model_of, usable_by
from server.store.records import Alias, Model
from server.store.tables import model_aliases, models


class NameTakenError(Exception):
    """A configured model has the name."""


class TooManyAliasesError(Exception):
    """The project has as many as it may have."""


class Aliases:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def configure(self, aliases: Mapping[str, str]) -> None:
        """Makes these the configuration's, each with the id of its model, and no others."""
        async with self._database.write() as connection:
            gone = model_aliases.c.name.not_in(list(aliases))
            await connection.execute(
                delete(model_aliases).where(model_aliases.c.owner == EVERYBODY, gone)
            )
            for name, model_id in aliases.items():
                await _put(connection, EVERYBODY, name, model_id)

    async def put(self, project_id: str, name: str, model_id: str, most: int) -> None:
        """Makes the project's alias, or moves it. Raises NameTakenError, TooManyAliasesError."""
        own = select(func.count()).where(
            model_aliases.c.owner == project_id, model_aliases.c.name != name
        )
        taken = select(models.c.id).where(
            models.c.id == name, models.c.project_id.is_(None), models.c.deleted_at.is_(None)
        )
        async with self._database.write() as connection:
            if await connection.scalar(taken) is not None:
                raise NameTakenError
            if (await connection.scalar(own) or 0) >= most:
                raise TooManyAliasesError
            await _put(connection, project_id, name, model_id)

    async def delete(self, project_id: str, name: str) -> bool:
        """False if the project has no such alias."""
        query = delete(model_aliases).where(
            model_aliases.c.owner == project_id, model_aliases.c.name == name
        )
        async with self._database.write(makes_room=True) as connection:
            return (await connection.execute(query)).rowcount == 1

    async def find(self, project_id: str, name: str) -> Alias | None:
        """What the name is to the project, whether or not its model is there."""
        query = _seen_by(project_id).where(model_aliases.c.name == name)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return _alias_of(rows[-1]) if rows else None

    async def list_for(self, project_id: str) -> tuple[tuple[Alias, Model], ...]:
        """Those that the project's requests may name, with their models, by name."""
        async with self._database.read() as connection:
            rows = await connection.execute(_seen_by(project_id))
            aliases = {row.name: _alias_of(row) for row in rows}
            ids = {*aliases, *(alias.points_to for alias in aliases.values())}
            query = select(models).where(models.c.id.in_(ids), *usable_by(project_id))
            found = {row.id: model_of(row) for row in await connection.execute(query)}
        return tuple(
            (alias, found[alias.points_to])
            for name, alias in sorted(aliases.items())
            if name not in found and alias.points_to in found
        )


def _seen_by(project_id: str) -> Select[Any]:
    """The project's own come last."""
    return (
        select(model_aliases)
        .where(model_aliases.c.owner.in_([EVERYBODY, project_id]))
        .order_by(model_aliases.c.owner)
    )


def _alias_of(row: Row[Any]) -> Alias:
    return Alias(row.name, row.points_to, row.created_at, is_own=row.owner != EVERYBODY)


async def _put(connection: AsyncConnection, owner: str, name: str, model_id: str) -> None:
    """One that is moved keeps the time it was made."""
    query = insert_or(connection, model_aliases).values(
        owner=owner, name=name, points_to=model_id, created_at=int(time.time())
    )
    await connection.execute(
        query.on_conflict_do_update(index_elements=["owner", "name"], set_={"points_to": model_id})
    )
