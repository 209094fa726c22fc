"""Rows of chat completions that are kept, each with the messages it answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, insert, select, update

from server.store.cursors import fetch_page
from server.store.database import Database
from server.store.metadata_pairs import carries, insert_pairs
from server.store.records import Page
from server.store.tables import stored_completion_metadata as pairs
from server.store.tables import stored_completions as completions

_REMOVED_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class StoredCompletion:
    """`body` is the completion as it was answered, `messages` what it answers, both as JSON."""

    id: str
    project_id: str
    created_at: int
    expires_at: int
    model: str
    metadata: Mapping[str, str] | None
    body: str
    messages: str


class StoredCompletions:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, kept: Sequence[StoredCompletion]) -> None:
        """In one transaction."""
        rows = [{name: getattr(one, name) for name in StoredCompletion.__slots__} for one in kept]
        async with self._database.write() as connection:
            await connection.execute(insert(completions), rows)
            for one in kept:
                await insert_pairs(connection, pairs.c.completion_id, one.id, one.metadata)

    async def find(self, project_id: str, completion_id: str) -> StoredCompletion | None:
        query = select(completions).where(*_there(project_id), completions.c.id == completion_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _completion_of(row)

    async def page(
        self,
        project_id: str,
        *,
        after: str | None,
        limit: int,
        ascending: bool,
        model: str | None,
        metadata: Mapping[str, str],
    ) -> Page[StoredCompletion]:
        """Those of `model` that carry all pairs of `metadata`. Raises UnknownCursorError."""
        filters = carries(pairs.c.completion_id, completions.c.id, metadata)
        if model is not None:
            filters.append(completions.c.model == model)
        async with self._database.read() as connection:
            rows, has_more = await fetch_page(
                connection,
                completions,
                _there(project_id),
                filters,
                after=after,
                limit=limit,
                ascending=ascending,
            )
        return Page(tuple(_completion_of(row) for row in rows), has_more)

    async def change_metadata(
        self, project_id: str, completion_id: str, metadata: Mapping[str, str] | None
    ) -> bool:
        """False if there is none."""
        where = (*_there(project_id), completions.c.id == completion_id)
        query = update(completions).where(*where).values(metadata=metadata)
        async with self._database.write() as connection:
            if (await connection.execute(query)).rowcount == 0:
                return False
            await connection.execute(delete(pairs).where(pairs.c.completion_id == completion_id))
            await insert_pairs(connection, pairs.c.completion_id, completion_id, metadata)
        return True

    async def delete(self, project_id: str, completion_id: str) -> bool:
        """False if there is none."""
        query = delete(completions).where(*_there(project_id), completions.c.id == completion_id)
        async with self._database.write(makes_room=True) as connection:
            if (await connection.execute(query)).rowcount == 0:
                return False
            await connection.execute(delete(pairs).where(pairs.c.completion_id == completion_id))
        return True

    async def remove_expired(self) -> None:
        expired = (
            select(completions.c.id)
            .where(completions.c.expires_at <= int(time.time()))
            .limit(_REMOVED_AT_ONCE)
        )
        while True:
            async with self._database.write(makes_room=True) as connection:
                ids = (await connection.scalars(expired)).all()
                await connection.execute(delete(pairs).where(pairs.c.completion_id.in_(ids)))
                await connection.execute(delete(completions).where(completions.c.id.in_(ids)))
            if len(ids) < _REMOVED_AT_ONCE:
                return


def _there(project_id: str) -> tuple[ColumnElement[bool], ...]:
    return (completions.c.project_id == project_id, completions.c.expires_at > int(time.time()))


def _completion_of(row: Any) -> StoredCompletion:
    return StoredCompletion(**{name: getattr(row, name) for name in StoredCompletion.__slots__})
