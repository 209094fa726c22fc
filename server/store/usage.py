"""Requests and tokens by project, key, model and minute."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import update

from server.store.database import Database
from server.store.records import Usage
from server.store.tables import usage


class UsageLedger:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, entries: Sequence[Usage]) -> None:
        """In one transaction."""
        async with self._database.write() as connection:
            for entry in entries:
                amounts = {
                    "requests": entry.requests,
                    "prompt_tokens": entry.prompt_tokens,
                    "completion_tokens": entry.completion_tokens,
                    "cached_tokens": entry.cached_tokens,
                }
                place = {
                    "project_id": entry.project_id,
                    "key_id": entry.key_id,
                    "model": entry.model,
                    "minute": entry.minute,
                }
                added = await connection.execute(
                    update(usage)
                    .where(*(usage.c[name] == value for name, value in place.items()))
                    .values({usage.c[name]: usage.c[name] + n for name, n in amounts.items()})
                )
                if added.rowcount == 0:
                    await connection.execute(usage.insert().values(**place, **amounts))
