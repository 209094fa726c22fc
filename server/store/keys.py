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
from server.store.records import ApiKey, KeyOrigin, Project
from server.store.tables import api_keys, projects

_PREFIX_LENGTH = 7


def hash_key(key: str) -> str:
    """What `api_keys.key_hash` holds."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyRevokedError(Exception):
    """The key was revoked, and stays so."""


_WITH_PROJECTS = (
    select(api_keys, projects.c.name.label("project"), projects.c.slug)
    .add_columns(projects.c.created_at.label("project_created_at"))
    .join(projects)
    .order_by(api_keys.c.created_at, api_keys.c.id)
)


def _oldest(condition: ColumnElement[bool]) -> Select[Any]:
    """The oldest live key that fits, with its project."""
    return _WITH_PROJECTS.where(condition, api_keys.c.revoked_at.is_(None)).limit(1)


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

    async def list_all(self) -> Sequence[ApiKey]:
        """Of every project, revoked ones included, the oldest first."""
        async with self._database.read() as connection:
            return [_key(row) for row in await connection.execute(_WITH_PROJECTS)]

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

    async def add(
        self, project_id: str, key: str, name: str, origin: KeyOrigin = KeyOrigin.CREATED
    ) -> ApiKey:
        """Keeps `key` for the project. The same key again changes nothing: it stays with the
        project that had it first. Raises KeyRevokedError."""
        key_hash = hash_key(key)
        async with self._database.write() as connection:
            if await _id_of(connection, key_hash) is None:
                await _insert(connection, project_id, key, name, origin)
        return await self._added(key_hash)

    async def configure(self, project_id: str, key: str) -> ApiKey:
        """Keeps `key` as the only configured one of the project: those before it are revoked, and
        `key` itself is live, whatever became of it earlier."""
        key_hash = hash_key(key)
        async with self._database.write() as connection:
            await connection.execute(
                update(api_keys)
                .where(
                    api_keys.c.project_id == project_id,
                    api_keys.c.origin == KeyOrigin.CONFIGURED,
                    api_keys.c.key_hash != key_hash,
                    api_keys.c.revoked_at.is_(None),
                )
                .values(revoked_at=_now())
            )
            if await _id_of(connection, key_hash) is None:
                origin = KeyOrigin.CONFIGURED
                await _insert(connection, project_id, key, origin.value, origin)
            else:
                await connection.execute(
                    update(api_keys).where(api_keys.c.key_hash == key_hash).values(revoked_at=None)
                )
        return await self._added(key_hash)

    async def revoke(self, key_id: str, project_id: str | None = None) -> bool:
        """Ends a key, of this project or of any. False when there is no such live key."""
        mine = [] if project_id is None else [api_keys.c.project_id == project_id]
        async with self._database.write(makes_room=True) as connection:
            result = await connection.execute(
                update(api_keys)
                .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None), *mine)
                .values(revoked_at=_now())
            )
        return result.rowcount == 1

    async def _added(self, key_hash: str) -> ApiKey:
        added = await self.find(key_hash)
        if added is None:
            raise KeyRevokedError
        return added


async def _id_of(connection: AsyncConnection, key_hash: str) -> str | None:
    return await connection.scalar(select(api_keys.c.id).where(api_keys.c.key_hash == key_hash))


async def _insert(
    connection: AsyncConnection, project_id: str, key: str, name: str, origin: KeyOrigin
) -> None:
    await connection.execute(
        api_keys.insert().values(
            id=random_id("key_"),
            project_id=project_id,
            name=name,
            key_hash=hash_key(key),
            prefix=key[:_PREFIX_LENGTH],
            created_at=_now(),
            origin=origin.value,
        )
    )


def _first_key(rows: Sequence[Any]) -> ApiKey | None:
    return _key(rows[0]) if rows else None


def _key(row: Any) -> ApiKey:
    project = Project(row.project_id, row.project, row.slug, row.project_created_at)
    origin = KeyOrigin(row.origin)
    return ApiKey(row.id, project, row.name, row.prefix, row.created_at, origin, row.revoked_at)


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
