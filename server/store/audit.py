"""Who did what: one row for each change to projects, keys, limits, models and jobs, written in the
transaction of the change itself and kept for `KEPT_S`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.cursors import UnknownCursorError
from server.store.database import Database
from server.store.identifiers import random_id
from server.store.records import Actor, ActorKind, AuditEntry, JsonObject, Page, Project
from server.store.tables import audit_log, projects

KEPT_S = 90 * 24 * 3600


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What a list of entries is narrowed to; empty is everything."""

    since: int | None = None
    until: int | None = None
    """Exclusive."""
    project_ids: Sequence[str] = ()
    types: Sequence[str] = ()
    actor_ids: Sequence[str] = ()
    resource_ids: Sequence[str] = ()

    def conditions(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        if self.since is not None:
            found.append(audit_log.c.at >= self.since)
        if self.until is not None:
            found.append(audit_log.c.at < self.until)
        for column, wanted in (
            (audit_log.c.project_id, self.project_ids),
            (audit_log.c.type, self.types),
            (audit_log.c.actor_id, self.actor_ids),
            (audit_log.c.details["id"].as_string(), self.resource_ids),
        ):
            if wanted:
                found.append(column.in_(wanted))
        return found


class AuditLog:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, wanted: AuditFilter, *, after: str | None, before: str | None, limit: int
    ) -> Page[AuditEntry]:
        """Newest first; `before` gives those just before it in the list. Raises
        UnknownCursorError."""
        query = (
            select(audit_log, projects.c.name, projects.c.slug)
            .add_columns(projects.c.created_at.label("project_created_at"))
            .outerjoin(projects, projects.c.id == audit_log.c.project_id)
            .where(*wanted.conditions())
            .limit(limit + 1)
        )
        async with self._database.read() as connection:
            if after is not None:
                query = query.where(audit_log.c.num < await _number(connection, after))
            if before is not None:
                query = query.where(audit_log.c.num > await _number(connection, before))
            backwards = before is not None and after is None
            order = audit_log.c.num.asc() if backwards else audit_log.c.num.desc()
            rows = list((await connection.execute(query.order_by(order))).all())
        items = [_entry(row) for row in rows[:limit]]
        if backwards:
            items.reverse()
        return Page(tuple(items), len(rows) > limit)


async def write_audit(
    connection: AsyncConnection,
    actor: Actor,
    kind: str,
    project_id: str | None,
    details: JsonObject,
) -> None:
    """Within the writing transaction of what was done; entries that are too old go."""
    now = int(time.time())
    await connection.execute(delete(audit_log).where(audit_log.c.at < now - KEPT_S))
    await connection.execute(
        audit_log.insert().values(
            id=random_id("audit_log-"),
            at=now,
            type=kind,
            actor_kind=actor.kind.value,
            actor_id=actor.id,
            project_id=project_id,
            details=details,
        )
    )


async def _number(connection: AsyncConnection, entry_id: str) -> int:
    number = await connection.scalar(select(audit_log.c.num).where(audit_log.c.id == entry_id))
    if number is None:
        raise UnknownCursorError(entry_id)
    return number


def _entry(row: Any) -> AuditEntry:
    project = None
    if row.project_id is not None and row.name is not None:
        project = Project(row.project_id, row.name, row.slug, row.project_created_at)
    actor = Actor(ActorKind(row.actor_kind), row.actor_id)
    return AuditEntry(row.id, row.at, row.type, actor, project, row.details)
