"""Projects and API keys. A key is 256 random bits (or given by the operator), so its plain
SHA-256 is enough: there is nothing to guess."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.database import Database
from server.store.identifiers import random_id
from server.store.records import ApiKey, Project
from server.store.tables import api_keys, projects

_PREFIX_LENGTH = 7


def hash_key(key: str) -> str:
    """What `api_keys.key_hash` holds."""
    return hashlib.sha256(key.encode()).hexdigest()


def _oldest(condition: ColumnElement[bool]) -> Select[Any]:
    """The oldest live key that fits, with its project."""
    return (
        select(api_keys, projects.c.name.label("project"), projects.c.slug)
        .add_columns(projects.c.created_at.label("project_created_at"))
        .join(projects)
        .where(condition, api_keys.c.revoked_at.is_(None))
        .order_by(api_keys.c.created_at)
        .limit(1)
    )


_BY_HASH = _oldest(api_keys.c.key_hash == bindparam("key_hash"))
_BY_PROJECT = _oldest(api_keys.c.project_id == bindparam("project_id"))


class Keys:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key_hash: str) -> ApiKey | None:
        """The live key with this hash; None for an unknown or revoked one."""
        return _first_key(await self._database.look_up(_BY_HASH, key_hash=key_hash))

    async def first_of(self, project_id: str) -> ApiKey | None:
        """The oldest live key of a project."""
        return _first_key(await self._database.look_up(_BY_PROJECT, project_id=project_id))

    async def project(self, project_id: str) -> Project:
        """Raises LookupError."""
        query = select(projects).where(projects.c.id == project_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise LookupError(f"no project {project_id}")
        return Project(row.id, row.name, row.slug, row.created_at)

    async def ensure_project(self, project_id: str, name: str) -> Project:
        """The project, made now if there is none with this id."""
        async with self._database.write() as connection:
            query = select(projects).where(projects.c.id == project_id)
            row = (await connection.execute(query)).one_or_none()
            if row is not None:
                return Project(row.id, row.name, row.slug, row.created_at)
            project = Project(project_id, name, await _free_slug(connection, name), _now())
            await connection.execute(
                projects.insert().values(
                    id=project.id, name=name, slug=project.slug, created_at=project.created_at
                )
            )
        return project

    async def add(self, project_id: str, key: str, name: str) -> ApiKey:
        """Keeps `key` for the project. The same key again changes nothing and brings a revoked
        one back to life; it stays with the project that had it first."""
        key_hash = hash_key(key)
        async with self._database.write() as connection:
            known = await connection.execute(
                update(api_keys).where(api_keys.c.key_hash == key_hash).values(revoked_at=None)
            )
            if known.rowcount == 0:
                await connection.execute(
                    api_keys.insert().values(
                        id=random_id("key_"),
                        project_id=project_id,
                        name=name,
                        key_hash=key_hash,
                        prefix=key[:_PREFIX_LENGTH],
                        created_at=_now(),
                    )
                )
        added = await self.find(key_hash)
        if added is None:
            raise LookupError("the key was revoked while it was being added")
        return added

    async def revoke(self, project_id: str, key_id: str) -> bool:
        """False when the project has no such live key."""
        async with self._database.write() as connection:
            result = await connection.execute(
                update(api_keys)
                .where(
                    api_keys.c.id == key_id,
                    api_keys.c.project_id == project_id,
                    api_keys.c.revoked_at.is_(None),
                )
                .values(revoked_at=_now())
            )
        return result.rowcount == 1


def _first_key(rows: Sequence[Any]) -> ApiKey | None:
    if not rows:
        return None
    row = rows[0]
    project = Project(row.project_id, row.project, row.slug, row.project_created_at)
    return ApiKey(row.id, project, row.name, row.prefix, row.created_at)


async def _free_slug(connection: AsyncConnection, name: str) -> str:
    """`name` as lower-case letters, digits and dashes, numbered if another project has it."""
    wanted = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "project"
    slug, number = wanted, 1
    while await connection.scalar(select(projects.c.id).where(projects.c.slug == slug)):
        number += 1
        slug = f"{wanted}-{number}"
    return slug


def _now() -> int:
    return int(time.time())
