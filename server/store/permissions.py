"""Which projects may use another project's fine-tune or checkpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, delete, select

from server.store.cursors import fetch_page
from server.store.database import Database
from server.store.identifiers import random_id
from server.store.records import Page, Permission
from server.store.tables import checkpoint_permissions, models, projects


class UnknownProjectError(LookupError):
    """There is no project of that id."""

    def __init__(self, project_id: str) -> None:
        super().__init__(f"no project {project_id}")
        self.project_id = project_id


class Permissions:
    """The caller has found the model for the project that it belongs to."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def grant(self, model_id: str, project_ids: Sequence[str]) -> tuple[Permission, ...]:
        """One for each project, in their order; those that there were stay as they are. All or
        none: raises UnknownProjectError."""
        known = select(projects.c.id).where(projects.c.id.in_(project_ids))
        mine = select(checkpoint_permissions).where(
            checkpoint_permissions.c.model_id == model_id,
            checkpoint_permissions.c.project_id.in_(project_ids),
        )
        lock = select(models.c.id).where(models.c.id == model_id).with_for_update(key_share=True)
        async with self._database.write() as connection:
            await connection.execute(lock)
            there = set(await connection.scalars(known))
            for project_id in project_ids:
                if project_id not in there:
                    raise UnknownProjectError(project_id)
            granted = {row.project_id for row in await connection.execute(mine)}
            for project_id in dict.fromkeys(project_ids):
                if project_id not in granted:
                    await connection.execute(
                        checkpoint_permissions.insert().values(
                            id=random_id("cp_"),
                            model_id=model_id,
                            project_id=project_id,
                            created_at=int(time.time()),
                        )
                    )
            found = {row.project_id: _of(row) for row in await connection.execute(mine)}
        return tuple(found[project_id] for project_id in dict.fromkeys(project_ids))

    async def page(
        self,
        model_id: str,
        *,
        after: str | None,
        limit: int,
        ascending: bool,
        project_id: str | None,
    ) -> Page[Permission]:
        """Raises UnknownCursorError."""
        table = checkpoint_permissions
        filters = [] if project_id is None else [table.c.project_id == project_id]
        async with self._database.read() as connection:
            rows, has_more = await fetch_page(
                connection,
                table,
                [table.c.model_id == model_id],
                filters,
                after=after,
                limit=limit,
                ascending=ascending,
            )
        return Page(tuple(_of(row) for row in rows), has_more)

    async def revoke(self, model_id: str, permission_id: str) -> bool:
        """False if the model has no such permission."""
        query = delete(checkpoint_permissions).where(
            checkpoint_permissions.c.model_id == model_id,
            checkpoint_permissions.c.id == permission_id,
        )
        async with self._database.write(makes_room=True) as connection:
            return (await connection.execute(query)).rowcount == 1


def _of(row: Row[Any]) -> Permission:
    return Permission(row.id, row.model_id, row.project_id, row.created_at)
