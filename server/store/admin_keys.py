"""Admin keys: of no project. They administer all of them, and open nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, select, update

from server.store.audit import write_audit
from server.store.cursors import fetch_page_by_age
from server.store.database import Database
from server.store.identifiers import random_id
from server.store.keys import hash_key, shown_of
from server.store.records import Actor, AdminKey, Page
from server.store.tables import admin_keys

_BY_HASH = select(admin_keys).where(
    admin_keys.c.key_hash == bindparam("key_hash"), admin_keys.c.revoked_at.is_(None)
)


class AdminKeys:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key_hash: str) -> AdminKey | None:
        """The live key with this hash; None for an unknown, revoked or expired one."""
        rows = await self._database.look_up(_BY_HASH, key_hash=key_hash)
        if not rows or (rows[0].expires_at is not None and rows[0].expires_at <= time.time()):
            return None
        return _key(rows[0])

    async def add(self, key: str, name: str, expires_at: int | None, by: Actor) -> AdminKey:
        """Of a key that was made just now."""
        made = AdminKey(
            random_id("key_"), name, shown_of(key), int(time.time()), expires_at, revoked_at=None
        )
        async with self._database.write() as connection:
            await connection.execute(
                admin_keys.insert().values(
                    id=made.id,
                    name=name,
                    key_hash=hash_key(key),
                    prefix=made.prefix,
                    created_at=made.created_at,
                    expires_at=expires_at,
                )
            )
            details = {"id": made.id, "data": {"scopes": ["api.management"]}}
            await write_audit(connection, by, "api_key.created", None, details)
        return made

    async def get(self, key_id: str) -> AdminKey | None:
        """One that is not revoked."""
        query = select(admin_keys).where(
            admin_keys.c.id == key_id, admin_keys.c.revoked_at.is_(None)
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _key(row)

    async def page(self, *, after: str | None, limit: int, ascending: bool) -> Page[AdminKey]:
        """Those that are not revoked. Raises UnknownCursorError."""
        query = select(admin_keys).where(admin_keys.c.revoked_at.is_(None))
        async with self._database.read() as connection:
            rows, has_more = await fetch_page_by_age(
                connection, query, admin_keys, after=after, limit=limit, ascending=ascending
            )
        return Page(tuple(_key(row) for row in rows), has_more)

    async def list_all(self) -> Sequence[AdminKey]:
        """Ended ones included, the oldest first."""
        query = select(admin_keys).order_by(admin_keys.c.created_at, admin_keys.c.id)
        async with self._database.read() as connection:
            return [_key(row) for row in await connection.execute(query)]

    async def revoke(self, key_id: str, by: Actor) -> bool:
        """False when there is no such key that is not revoked."""
        async with self._database.write(makes_room=True) as connection:
            result = await connection.execute(
                update(admin_keys)
                .where(admin_keys.c.id == key_id, admin_keys.c.revoked_at.is_(None))
                .values(revoked_at=int(time.time()))
            )
            if result.rowcount == 1:
                await write_audit(connection, by, "api_key.deleted", None, {"id": key_id})
        return result.rowcount == 1


def _key(row: Any) -> AdminKey:
    return AdminKey(row.id, row.name, row.prefix, row.created_at, row.expires_at, row.revoked_at)
