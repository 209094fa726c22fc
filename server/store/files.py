"""Rows of uploaded and produced files; their bytes are in `server.blobs`."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import ColumnElement, Row, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.cursors import fetch_page
from server.store.database import Database
from server.store.idempotency import find_replay, keep_replay
from server.store.records import File, Page, Replay
from server.store.tables import files


class Files:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, file: File, replay: tuple[str, str, Replay] | None = None) -> Replay | None:
        """Keeps the file and, under `(route, key, answer)`, the answer for a repeat. If a repeat
        was quicker, keeps nothing and returns that one's answer."""
        async with self._database.write() as connection:
            if replay is not None:
                route, key, answer = replay
                earlier = await find_replay(connection, file.project_id, route, key)
                if earlier is not None:
                    return earlier
                await keep_replay(connection, file.project_id, route, key, answer)
            await insert_file(connection, file)
        return None

    async def find(self, project_id: str, file_id: str) -> File | None:
        query = select(files).where(
            files.c.project_id == project_id, files.c.id == file_id, *_is_there()
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _file_of(row)

    async def page(
        self,
        project_id: str,
        *,
        after: str | None,
        limit: int,
        ascending: bool = False,
        purpose: str | None = None,
    ) -> Page[File]:
        """Raises UnknownCursorError."""
        filters = list(_is_there())
        if purpose is not None:
            filters.append(files.c.purpose == purpose)
        async with self._database.read() as connection:
            rows, has_more = await fetch_page(
                connection,
                files,
                [files.c.project_id == project_id],
                filters,
                after=after,
                limit=limit,
                ascending=ascending,
            )
        return Page(tuple(_file_of(row) for row in rows), has_more)

    async def delete(self, project_id: str, file_id: str) -> File | None:
        """Hides the file from the project at once and returns it; None if there is none."""
        query = (
            update(files)
            .where(files.c.project_id == project_id, files.c.id == file_id, *_is_there())
            .values(deleted_at=int(time.time()))
            .returning(*files.c)
        )
        async with self._database.write(makes_room=True) as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _file_of(row)

    async def list_reclaimable(self, limit: int = 100) -> tuple[File, ...]:
        """Deleted and expired files whose bytes are still kept."""
        query = (
            select(files)
            .where(
                files.c.blob != "",
                or_(files.c.deleted_at.is_not(None), files.c.expires_at <= int(time.time())),
            )
            .limit(limit)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return tuple(_file_of(row) for row in rows)

    async def set_reclaimed(self, file_id: str) -> None:
        """The bytes are gone."""
        async with self._database.write(makes_room=True) as connection:
            await connection.execute(update(files).where(files.c.id == file_id).values(blob=""))


def _is_there() -> tuple[ColumnElement[bool], ...]:
    unexpired = or_(files.c.expires_at.is_(None), files.c.expires_at > int(time.time()))
    return files.c.deleted_at.is_(None), unexpired


async def insert_file(connection: AsyncConnection, file: File) -> None:
    """Within a writing transaction."""
    await connection.execute(
        files.insert().values(
            id=file.id,
            project_id=file.project_id,
            filename=file.filename,
            purpose=file.purpose,
            bytes=file.num_bytes,
            status=file.status,
            status_details=file.status_details,
            created_at=file.created_at,
            expires_at=file.expires_at,
            blob=file.blob,
        )
    )


def _file_of(row: Row[Any]) -> File:
    return File(
        id=row.id,
        project_id=row.project_id,
        filename=row.filename,
        purpose=row.purpose,
        num_bytes=row.bytes,
        status=row.status,
        status_details=row.status_details,
        created_at=row.created_at,
        expires_at=row.expires_at,
        blob=row.blob,
    )
