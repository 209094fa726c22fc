"""Projects, and their limits for each model. An archived project's keys end; its objects stay."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.audit import write_audit
from server.store.conflicts import insert_or
from server.store.cursors import fetch_page_by_age
from server.store.database import Database
from server.store.identifiers import random_id
from server.store.records import Actor, Page, Project, RateLimit
from server.store.tables import projects


class Projects:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, name: str, by: Actor) -> Project:
        async with self._database.write() as connection:
            project = await insert_project(connection, random_id("proj_"), name)
            details = {"id": project.id, "data": {"name": name, "title": name}}
            await write_audit(connection, by, "project.created", project.id, details)
        return project

    async def ensure(self, project_id: str, name: str) -> Project:
        """The project, made now if there is none with this id."""
        async with self._database.write() as connection:
            query = select(projects).where(projects.c.id == project_id)
            row = (await connection.execute(query)).one_or_none()
            if row is not None:
                return project_of(row)
            return await insert_project(connection, project_id, name)

    async def find(self, project_id: str) -> Project | None:
        query = select(projects).where(projects.c.id == project_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else project_of(row)

    async def get(self, project_id: str) -> Project:
        """Raises LookupError."""
        project = await self.find(project_id)
        if project is None:
            raise LookupError(f"no project {project_id}")
        return project

    async def page(self, *, after: str | None, limit: int, include_archived: bool) -> Page[Project]:
        """The oldest first. Raises UnknownCursorError."""
        query = select(projects)
        if not include_archived:
            query = query.where(projects.c.archived_at.is_(None))
        async with self._database.read() as connection:
            rows, has_more = await fetch_page_by_age(
                connection, query, projects, after=after, limit=limit
            )
        return Page(tuple(project_of(row) for row in rows), has_more)

    async def rename(self, project_id: str, name: str, by: Actor) -> Project | None:
        """None if there is no such live project. The slug, which is in models' ids, stays."""
        async with self._database.write() as connection:
            project = await _change(connection, project_id, name=name)
            if project is not None:
                details = {"id": project_id, "changes_requested": {"title": name}}
                await write_audit(connection, by, "project.updated", project_id, details)
        return project

    async def archive(self, project_id: str, by: Actor) -> Project | None:
        """None if there is no such live project."""
        async with self._database.write(makes_room=True) as connection:
            project = await _change(connection, project_id, archived_at=int(time.time()))
            if project is not None:
                details = {"id": project_id}
                await write_audit(connection, by, "project.archived", project_id, details)
        return project

    async def rate_limits(self, project_id: str) -> Mapping[str, RateLimit]:
        """By model; one that has none is not among them."""
        query = select(projects.c.rate_limits).where(projects.c.id == project_id)
        async with self._database.read() as connection:
            return read_limits(await connection.scalar(query))

    async def change_rate_limit(
        self, project_id: str, model: str, change: Callable[[RateLimit], RateLimit], by: Actor
    ) -> RateLimit | None:
        """`change` gives the new limit for the old one. None if there is no such live project."""
        where = (projects.c.id == project_id, projects.c.archived_at.is_(None))
        async with self._database.write() as connection:
            query = select(projects).where(*where).with_for_update(key_share=True)
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None
            limits = dict(read_limits(row.rate_limits))
            limit = limits[model] = change(limits.get(model, RateLimit()))
            await _change(connection, project_id, rate_limits=_write_limits(limits))
            asked = {
                "max_requests_per_1_minute": limit.requests,
                "max_tokens_per_1_minute": limit.tokens,
            }
            details = {"id": f"rl-{model}", "changes_requested": asked}
            await write_audit(connection, by, "rate_limit.updated", project_id, details)
        return limit


async def insert_project(connection: AsyncConnection, project_id: str, name: str) -> Project:
    """Within a writing transaction. One of this id that another makes meanwhile stays as it is."""
    known = select(projects).where(projects.c.id == project_id)
    insert = insert_or(connection, projects).on_conflict_do_nothing().returning(*projects.c)
    while True:
        slug = await _free_slug(connection, name)
        values = {"id": project_id, "name": name, "slug": slug, "created_at": int(time.time())}
        row = (await connection.execute(insert.values(values))).one_or_none()
        row = row or (await connection.execute(known)).one_or_none()
        if row is not None:
            return project_of(row)


def project_of(row: Any) -> Project:
    return Project(row.id, row.name, row.slug, row.created_at, row.archived_at)


def read_limits(text: str | None) -> Mapping[str, RateLimit]:
    if text is None:
        return {}
    return {model: RateLimit(*numbers) for model, numbers in json.loads(text).items()}


def _write_limits(limits: Mapping[str, RateLimit]) -> str | None:
    kept = {
        model: (limit.requests, limit.tokens)
        for model, limit in limits.items()
        if limit != RateLimit()
    }
    return json.dumps(kept) if kept else None


async def _change(connection: AsyncConnection, project_id: str, **values: Any) -> Project | None:
    query = (
        update(projects)
        .where(projects.c.id == project_id, projects.c.archived_at.is_(None))
        .values(values)
        .returning(*projects.c)
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else project_of(row)


async def _free_slug(connection: AsyncConnection, name: str) -> str:
    """`name` as lower-case letters, digits and dashes, numbered if another project has it."""
    wanted = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "project"
    slug, number = wanted, 1
    while await connection.scalar(select(projects.c.id).where(projects.c.slug == slug)):
        number += 1
        slug = f"{wanted}-{number}"
    return slug
