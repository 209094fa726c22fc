"""Rows of uploads in parts; their bytes are in `server.blobs`, a blob for each part's id."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.database import Database
from server.store.files import insert_file
from server.store.records import File, Upload, UploadPart, UploadStatus
from server.store.tables import upload_parts, uploads


class Uploads:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, upload: Upload) -> None:
        async with self._database.write() as connection:
            await connection.execute(
                uploads.insert().values(
                    id=upload.id,
                    project_id=upload.project_id,
                    filename=upload.filename,
                    purpose=upload.purpose,
                    bytes=upload.num_bytes,
                    status=UploadStatus.PENDING.value,
                    created_at=upload.created_at,
                    expires_at=upload.expires_at,
                    file_expires_s=upload.file_expires_s,
                )
            )

    async def find(self, project_id: str, upload_id: str) -> Upload | None:
        query = select(uploads).where(uploads.c.project_id == project_id, uploads.c.id == upload_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _upload_of(row)

    async def num_pending(self, project_id: str) -> int:
        query = select(func.count()).where(uploads.c.project_id == project_id, *_is_pending())
        async with self._database.read() as connection:
            return await connection.scalar(query) or 0

    async def add_part(self, part: UploadPart, max_parts: int, max_bytes: int) -> bool:
        """False if the upload is not pending any more, or has no place for the part."""
        async with self._database.write() as connection:
            pending = select(uploads.c.id).where(uploads.c.id == part.upload_id, *_is_pending())
            num_parts, num_bytes = await _held(connection, part.upload_id)
            if num_parts >= max_parts or num_bytes + part.num_bytes > max_bytes:
                return False
            if await connection.scalar(pending) is None:
                return False
            await connection.execute(
                upload_parts.insert().values(
                    id=part.id,
                    upload_id=part.upload_id,
                    bytes=part.num_bytes,
                    created_at=part.created_at,
                )
            )
        return True

    async def parts(self, upload_id: str) -> dict[str, UploadPart]:
        """By id."""
        query = select(upload_parts).where(upload_parts.c.upload_id == upload_id)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return {row.id: UploadPart(row.id, upload_id, row.bytes, row.created_at) for row in rows}

    async def complete(self, upload_id: str, file: File) -> bool:
        """Makes the file appear and the upload complete, together. False if it is not pending."""
        async with self._database.write() as connection:
            values = {"status": UploadStatus.COMPLETED.value, "file_id": file.id}
            if not await _end(connection, upload_id, values):
                return False
            await insert_file(connection, file)
        return True

    async def cancel(self, upload_id: str) -> bool:
        """False if it is not pending."""
        async with self._database.write(makes_room=True) as connection:
            return await _end(connection, upload_id, {"status": UploadStatus.CANCELLED.value})

    async def list_reclaimable_parts(self, limit: int = 100) -> Sequence[str]:
        """Parts whose upload has ended or expired; their bytes are still kept."""
        ended = or_(
            uploads.c.status != UploadStatus.PENDING.value, uploads.c.expires_at <= time.time()
        )
        query = select(upload_parts.c.id).join(uploads).where(ended).limit(limit)
        async with self._database.read() as connection:
            return list(await connection.scalars(query))

    async def forget_parts(self, part_ids: Sequence[str]) -> None:
        """Their bytes are gone."""
        async with self._database.write(makes_room=True) as connection:
            await connection.execute(delete(upload_parts).where(upload_parts.c.id.in_(part_ids)))


def _is_pending() -> tuple[Any, ...]:
    return uploads.c.status == UploadStatus.PENDING.value, uploads.c.expires_at > time.time()


async def _held(connection: AsyncConnection, upload_id: str) -> tuple[int, int]:
    """How many parts there are, and their bytes."""
    query = select(func.count(), func.coalesce(func.sum(upload_parts.c.bytes), 0)).where(
        upload_parts.c.upload_id == upload_id
    )
    count, total = (await connection.execute(query)).one()
    return count, total


async def _end(connection: AsyncConnection, upload_id: str, values: dict[str, str]) -> bool:
    query = update(uploads).where(uploads.c.id == upload_id, *_is_pending()).values(values)
    return (await connection.execute(query)).rowcount == 1


def _upload_of(row: Row[Any]) -> Upload:
    status = UploadStatus(row.status)
    if status is UploadStatus.PENDING and row.expires_at <= time.time():
        status = UploadStatus.EXPIRED
    return Upload(
        id=row.id,
        project_id=row.project_id,
        filename=row.filename,
        purpose=row.purpose,
        num_bytes=row.bytes,
        status=status,
        created_at=row.created_at,
        expires_at=row.expires_at,
        file_expires_s=row.file_expires_s,
        file_id=row.file_id,
    )
