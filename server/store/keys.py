"""API keys of projects. A key is 256 random bits (or given by the operator), so its plain SHA-256
is enough: there is nothing to guess."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.audit import write_audit
from server.store.cursors import fetch_page_by_age
from server.store.database import Database
from server.store.identifiers import random_id
from server.store.projects import read_limits
from server.store.records import OPERATOR, Actor, ApiKey, KeyOrigin, NewKey, Page, Project
from server.store.tables import api_keys, projects, usage

_PREFIX_LENGTH = 7


def hash_key(key: str) -> str:
    """What `api_keys.key_hash` holds."""
    return hashlib.sha256(key.encode()).hexdigest()


def shown_of(key: str) -> str:
    """How it begins: the one part of it that is kept and shown."""
    return key[:_PREFIX_LENGTH]


class KeyRevokedError(Exception):
    """The key was revoked or its project archived, and stays so."""


_WITH_PROJECTS = (
    select(api_keys, projects.c.name.label("project"), projects.c.slug, projects.c.rate_limits)
    .add_columns(projects.c.created_at.label("project_created_at"), projects.c.archived_at)
    .join(projects)
)
_LIVE = (api_keys.c.revoked_at.is_(None), projects.c.archived_at.is_(None))


def _oldest(condition: ColumnElement[bool]) -> Select[Any]:
    """The oldest live key that fits, with its project; it may have expired."""
    query = _WITH_PROJECTS.where(condition, *_LIVE)
    return query.order_by(api_keys.c.created_at, api_keys.c.id).limit(1)


_BY_HASH = _oldest(api_keys.c.key_hash == bindparam("key_hash"))
_BY_PROJECT = _oldest(api_keys.c.project_id == bindparam("project_id"))


class Keys:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key_hash: str) -> ApiKey | None:
        """The live key with this hash; None for an unknown, revoked or expired one, and for one of
        an archived project."""
        return _first_key(await self._database.look_up(_BY_HASH, key_hash=key_hash))

    async def first_of(self, project_id: str) -> ApiKey | None:
        """The oldest live key of a project."""
        return _first_key(await self._database.look_up(_BY_PROJECT, project_id=project_id))

    async def list_all(self) -> Sequence[ApiKey]:
        """Of every project, ended ones included, the oldest first."""
        query = _WITH_PROJECTS.order_by(api_keys.c.created_at, api_keys.c.id)
        async with self._database.read() as connection:
            return [_key(row) for row in await connection.execute(query)]

    async def page(
        self, project_id: str, *, after: str | None, limit: int, of_accounts: bool = False
    ) -> Page[ApiKey]:
        """The keys of a live project that are not revoked, the oldest first. Raises
        UnknownCursorError."""
        query = _WITH_PROJECTS.where(api_keys.c.project_id == project_id, *_LIVE)
        if of_accounts:
            query = query.where(api_keys.c.service_account_id.is_not(None))
        async with self._database.read() as connection:
            rows, has_more = await fetch_page_by_age(
                connection, query, api_keys, after=after, limit=limit
            )
        return Page(tuple(_key(row) for row in rows), has_more)

    async def get(self, project_id: str, id_: str) -> ApiKey | None:
        """A key that is not revoked, by its own id or its service account's."""
        fits = or_(api_keys.c.id == id_, api_keys.c.service_account_id == id_)
        query = _WITH_PROJECTS.where(api_keys.c.project_id == project_id, fits, *_LIVE)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _key(row)

    async def last_used(self, project_id: str, key_ids: Collection[str]) -> dict[str, int]:
        """The minute in which each last generated something; one that never did is left out."""
        query = (
            select(usage.c.key_id, func.max(usage.c.minute))
            .where(usage.c.project_id == project_id, usage.c.key_id.in_(key_ids))
            .group_by(usage.c.key_id)
        )
        async with self._database.read() as connection:
            return {key_id: minute for key_id, minute in await connection.execute(query)}

    async def add(
        self, project_id: str, key: str, new: NewKey | str, by: Actor = OPERATOR
    ) -> ApiKey:
        """Keeps `key` for the project. The same key again changes nothing: it stays with the
        project that had it first. Raises KeyRevokedError."""
        wanted = NewKey(new) if isinstance(new, str) else new
        key_hash = hash_key(key)
        of_project = (projects.c.id == project_id, projects.c.archived_at.is_(None))
        live = select(projects.c.id).where(*of_project).with_for_update(read=True)
        async with self._database.write() as connection:
            if await _id_of(connection, key_hash) is None:
                if await connection.scalar(live) is None:
                    raise KeyRevokedError
                await _insert(connection, project_id, key, wanted, by)
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
                new = NewKey(origin.value, origin=origin)
                await _insert(connection, project_id, key, new, OPERATOR)
            else:
                await connection.execute(
                    update(api_keys)
                    .where(api_keys.c.key_hash == key_hash)
                    .values(revoked_at=None, expires_at=None)
                )
        return await self._added(key_hash)

    async def revoke(
        self, key_id: str, project_id: str | None = None, by: Actor = OPERATOR
    ) -> bool:
        """Ends a key, of this project or of any, and its service account with it. False when there
        is no such live key."""
        mine = [] if project_id is None else [api_keys.c.project_id == project_id]
        async with self._database.write(makes_room=True) as connection:
            ended = await connection.execute(
                update(api_keys)
                .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None), *mine)
                .values(revoked_at=_now())
                .returning(api_keys.c.project_id, api_keys.c.service_account_id)
            )
            row = ended.one_or_none()
            if row is not None:
                await write_audit(connection, by, "api_key.deleted", row.project_id, {"id": key_id})
            if row is not None and row.service_account_id is not None:
                account = {"id": row.service_account_id}
                await write_audit(
                    connection, by, "service_account.deleted", row.project_id, account
                )
        return row is not None

    async def _added(self, key_hash: str) -> ApiKey:
        added = await self.find(key_hash)
        if added is None:
            raise KeyRevokedError
        return added


async def _id_of(connection: AsyncConnection, key_hash: str) -> str | None:
    return await connection.scalar(select(api_keys.c.id).where(api_keys.c.key_hash == key_hash))


async def _insert(
    connection: AsyncConnection, project_id: str, key: str, new: NewKey, by: Actor
) -> None:
    key_id = random_id("key_")
    await connection.execute(
        api_keys.insert().values(
            id=key_id,
            project_id=project_id,
            name=new.name,
            key_hash=hash_key(key),
            prefix=shown_of(key),
            created_at=_now(),
            origin=new.origin.value,
            scopes=_write_names(new.scopes),
            models=_write_names(new.models),
            expires_at=new.expires_at,
            service_account_id=new.service_account_id,
        )
    )
    if new.service_account_id is not None:
        account = {"id": new.service_account_id, "data": {"role": "member"}}
        await write_audit(connection, by, "service_account.created", project_id, account)
    scopes = None if new.scopes is None else sorted(new.scopes)
    details = {"id": key_id, "data": {"scopes": scopes}}
    await write_audit(connection, by, "api_key.created", project_id, details)


def _write_names(names: frozenset[str] | None) -> str | None:
    return None if names is None else json.dumps(sorted(names))


def _read_names(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(json.loads(text))


def _first_key(rows: Sequence[Any]) -> ApiKey | None:
    if not rows or (rows[0].expires_at is not None and rows[0].expires_at <= _now()):
        return None
    return _key(rows[0])


def _key(row: Any) -> ApiKey:
    return ApiKey(
        id=row.id,
        project=Project(
            row.project_id, row.project, row.slug, row.project_created_at, row.archived_at
        ),
        name=row.name,
        prefix=row.prefix,
        created_at=row.created_at,
        origin=KeyOrigin(row.origin),
        revoked_at=row.revoked_at,
        scopes=_read_names(row.scopes),
        models=_read_names(row.models),
        expires_at=row.expires_at,
        service_account_id=row.service_account_id,
        rate_limits=read_limits(row.rate_limits),
    )


def _now() -> int:
    return int(time.time())
