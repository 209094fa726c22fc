"""What happens to uploads: parts received, put together, checked, and kept as a file."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace

from server.blobs import Blobs, BlobWriter, StorageFullError
from server.errors import (
    InvalidRequest,
    NotFound,
    RateLimited,
    TooLarge,
    missing_parameter,
    unknown_parameter,
)
from server.files.checks import check_extension, file_check
from server.files.form import FormReader
from server.files.names import clean_filename
from server.files.schemas import BATCH_EXPIRY_S, Purpose
from server.store import Store, StoreUnavailableError
from server.store.identifiers import random_id
from server.store.records import File, Upload, UploadPart, UploadStatus
from server.uploads.schemas import MAX_PARTS, CompleteUpload, CreateUpload

MAX_PART_BYTES = 64 * 1024 * 1024
MAX_PENDING = 100
"""Of a project."""
LIFE_S = 3600
_SPARE_BYTES = MAX_PART_BYTES
"""Parts may come to twice the announced bytes and this: some are sent again, and not used."""


class UploadService:
    def __init__(self, store: Store, blobs: Blobs, max_upload_bytes: int) -> None:
        self._store = store
        self._blobs = blobs
        self._max_upload_bytes = max_upload_bytes

    async def create(self, project_id: str, wanted: CreateUpload) -> Upload:
        """Raises ApiError."""
        filename = clean_filename(wanted.filename)
        check_extension(filename, wanted.purpose, param="filename")
        if wanted.bytes > self._max_upload_bytes:
            raise InvalidRequest(
                f"Invalid 'bytes': integer above maximum value. Expected a value <= "
                f"{self._max_upload_bytes}, but got {wanted.bytes} instead.",
                param="bytes",
                code="integer_above_max_value",
            )
        if await self._store.uploads.num_pending(project_id) >= MAX_PENDING:
            raise RateLimited(
                f"Your project has {MAX_PENDING} uploads under way. Complete or cancel some.",
                retry_after_s=60.0,
            )
        expires_s = None if wanted.expires_after is None else wanted.expires_after.seconds
        if wanted.purpose is Purpose.BATCH and expires_s is None:
            expires_s = BATCH_EXPIRY_S
        created_at = int(time.time())
        upload = Upload(
            id=random_id("upload_"),
            project_id=project_id,
            filename=filename,
            purpose=wanted.purpose.value,
            num_bytes=wanted.bytes,
            status=UploadStatus.PENDING,
            created_at=created_at,
            expires_at=created_at + LIFE_S,
            file_expires_s=expires_s,
            file_id=None,
        )
        await self._store.uploads.add(upload)
        return upload

    async def receive_part(
        self, project_id: str, upload_id: str, content_type: str, body: AsyncIterator[bytes]
    ) -> UploadPart:
        """Raises ApiError; StorageFullError when there is no room. Nothing is left behind then."""
        upload = await self._pending(project_id, upload_id)
        part_id = random_id("part_")

        async def open_writer() -> BlobWriter:
            return await self._blobs.create(part_id)

        reader = FormReader("data", MAX_PART_BYTES, open_writer)
        try:
            form = await reader.read(content_type, body)
            if form.fields:
                raise unknown_parameter(min(form.fields))
            if form.file is None:
                raise missing_parameter("data")
            part = UploadPart(part_id, upload.id, form.file.num_bytes, int(time.time()))
            await form.file.writer.commit()
        finally:
            if reader.writer is not None:
                await reader.writer.discard()
        await self._keep_part(upload, part)
        return part

    async def _keep_part(self, upload: Upload, part: UploadPart) -> None:
        """Raises ApiError, with the part's bytes gone."""
        most = 2 * upload.num_bytes + _SPARE_BYTES
        kept = False
        try:
            kept = await self._store.uploads.add_part(part, MAX_PARTS, most)
        finally:
            if not kept:
                await self._blobs.delete(part.id)
        if not kept:
            await self._pending(upload.project_id, upload.id)
            raise TooLarge(most)

    async def complete(
        self, project_id: str, upload_id: str, wanted: CompleteUpload
    ) -> tuple[Upload, File]:
        """The parts named become the file, in their order. Raises ApiError, StorageFullError; the
        upload is pending as before then."""
        upload = await self._pending(project_id, upload_id)
        parts = _chosen(wanted.part_ids, await self._store.uploads.parts(upload.id), upload)
        created_at = int(time.time())
        expires_s = upload.file_expires_s
        file_id = random_id("file-")
        file = File(
            id=file_id,
            project_id=project_id,
            filename=upload.filename,
            purpose=upload.purpose,
            num_bytes=upload.num_bytes,
            status="processed",
            status_details=None,
            created_at=created_at,
            expires_at=None if expires_s is None else created_at + expires_s,
            blob=file_id,
        )
        try:
            await self._put_together(file, parts, wanted.md5)
        except FileNotFoundError:
            # Another call completed or cancelled it meanwhile, and the parts are gone.
            await self._pending(project_id, upload_id)
            raise
        kept = False
        try:
            kept = await self._store.uploads.complete(upload.id, file)
        finally:
            if not kept:
                await self._blobs.delete(file.blob)
        if not kept:
            await self._pending(project_id, upload_id)
        await self._drop_parts(upload.id)
        return replace(upload, status=UploadStatus.COMPLETED, file_id=file.id), file

    async def cancel(self, project_id: str, upload_id: str) -> Upload:
        """Raises ApiError."""
        upload = await self._pending(project_id, upload_id)
        if not await self._store.uploads.cancel(upload.id):
            await self._pending(project_id, upload_id)
        await self._drop_parts(upload.id)
        return replace(upload, status=UploadStatus.CANCELLED)

    async def _put_together(self, file: File, parts: Sequence[UploadPart], md5: str | None) -> None:
        check = file_check(file.purpose, file.filename)
        digest = hashlib.md5(usedforsecurity=False)
        writer = await self._blobs.create(file.blob)
        try:
            for part in parts:
                async for chunk in self._blobs.read(part.id):
                    digest.update(chunk)
                    if check is not None:
                        await asyncio.to_thread(check.feed, chunk)
                    await writer.write(chunk)
            if check is not None:
                await asyncio.to_thread(check.finish)
            if md5 is not None and digest.hexdigest() != md5.lower():
                raise InvalidRequest(
                    f"The md5 of the parts is {digest.hexdigest()}, not the one given.",
                    param="md5",
                    code="invalid_value",
                )
            await writer.commit()
        finally:
            await writer.discard()

    async def _drop_parts(self, upload_id: str) -> None:
        """The upload has ended, whatever becomes of its parts: the janitor removes the rest."""
        with suppress(StoreUnavailableError, StorageFullError):
            part_ids = list(await self._store.uploads.parts(upload_id))
            for part_id in part_ids:
                await self._blobs.delete(part_id)
            await self._store.uploads.forget_parts(part_ids)

    async def _pending(self, project_id: str, upload_id: str) -> Upload:
        """Raises NotFound, and InvalidRequest for an upload that has ended."""
        upload = await self._store.uploads.find(project_id, upload_id)
        if upload is None:
            raise NotFound(f"No such Upload object: {upload_id}", param="upload_id")
        if upload.status is not UploadStatus.PENDING:
            raise InvalidRequest(
                f"The upload {upload.id} is {upload.status.value}, not pending.",
                param="upload_id",
                code="invalid_upload_status",
            )
        return upload


def _chosen(
    part_ids: Sequence[str], parts: dict[str, UploadPart], upload: Upload
) -> list[UploadPart]:
    """Raises InvalidRequest."""
    for index, part_id in enumerate(part_ids):
        if part_id not in parts:
            raise InvalidRequest(
                f"The upload has no part '{part_id}'.",
                param=f"part_ids[{index}]",
                code="invalid_value",
            )
    if len(set(part_ids)) < len(part_ids):
        raise InvalidRequest("A part is named twice.", param="part_ids", code="invalid_value")
    chosen = [parts[part_id] for part_id in part_ids]
    total = sum(part.num_bytes for part in chosen)
    if total != upload.num_bytes:
        raise InvalidRequest(
            f"The parts have {total} bytes, and the upload was created for {upload.num_bytes}.",
            param="part_ids",
            code="invalid_value",
        )
    return chosen
