"""What happens to files: received, checked, kept, listed, deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

from server.blobs import Blobs, BlobWriter, StorageFullError
from server.errors import InvalidRequest, NotFound, missing_parameter, unknown_parameter
from server.files.checks import check_extension, file_check
from server.files.form import FormReader, ReceivedFile, ReceivedForm
from server.files.names import clean_filename
from server.files.schemas import (
    BATCH_EXPIRY_S,
    FileObject,
    Purpose,
    parse_expiry,
    parse_purpose,
)
from server.idempotency import IdempotentCall, idempotent_call
from server.store import Store, StoreUnavailableError
from server.store.identifiers import random_id
from server.store.records import File

_FIELDS = frozenset({"purpose", "expires_after[anchor]", "expires_after[seconds]"})
_ROUTE = "files"


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload request as far as it is known before its body."""

    project_id: str
    content_type: str
    idempotency_key: str | None


class FileService:
    def __init__(self, store: Store, blobs: Blobs, max_file_bytes: int) -> None:
        self._store = store
        self._blobs = blobs
        self._max_file_bytes = max_file_bytes

    async def receive(self, upload: Upload, body: AsyncIterator[bytes]) -> bytes:
        """The JSON of the new file object, or of the one an earlier identical request made.
        Raises ApiError; StorageFullError when there is no room. Nothing is left behind then."""
        file_id = random_id("file-")

        async def open_writer() -> BlobWriter:
            return await self._blobs.create(file_id)

        reader = FormReader("file", self._max_file_bytes, open_writer)
        try:
            form = await reader.read(upload.content_type, body)
            return await self._keep(upload, file_id, form)
        finally:
            if reader.writer is not None:
                await reader.writer.discard()

    async def _keep(self, upload: Upload, file_id: str, form: ReceivedForm) -> bytes:
        file, received = _checked(upload.project_id, file_id, form)
        call = _idempotent(upload, received, form)
        if call is not None and (answer := await call.earlier_answer(self._store)) is not None:
            return answer
        await received.writer.commit()
        try:
            await self._check_content(file)
            answer = FileObject.of(file).model_dump_json(exclude_none=True).encode()
            earlier = await self._store.files.add(file, call and call.keeping(answer))
        except BaseException:
            await self._blobs.delete(file.blob)
            raise
        if call is None or earlier is None:
            return answer
        await self._blobs.delete(file.blob)
        return call.answer_of(earlier)

    async def _check_content(self, file: File) -> None:
        check = file_check(file.purpose, file.filename)
        if check is None:
            return
        async for chunk in self._blobs.read(file.blob):
            await asyncio.to_thread(check.feed, chunk)
        await asyncio.to_thread(check.finish)

    async def find(self, project_id: str, file_id: str) -> File:
        """Raises NotFound."""
        file = await self._store.files.find(project_id, file_id)
        if file is None:
            raise no_such_file(file_id)
        return file

    async def open_content(self, file: File) -> tuple[bytes, AsyncIterator[bytes]]:
        """The first bytes and the rest. Raises NotFound when a deletion was quicker."""
        chunks = aiter(self._blobs.read(file.blob))
        try:
            first = await anext(chunks, b"")
        except FileNotFoundError:
            raise no_such_file(file.id) from None
        return first, chunks

    async def delete(self, project_id: str, file_id: str) -> None:
        """Jobs that were given the file have their own copy. Raises NotFound. Once the row is
        deleted the file is, and bytes that a busy store keeps are left to the janitor."""
        file = await self._store.files.delete(project_id, file_id)
        if file is None:
            raise no_such_file(file_id)
        with suppress(StoreUnavailableError, StorageFullError):
            await self._blobs.delete(file.blob)
            await self._store.files.set_reclaimed(file.id)


def no_such_file(file_id: str) -> NotFound:
    return NotFound(f"No such File object: {file_id}", param="id")


def _checked(project_id: str, file_id: str, form: ReceivedForm) -> tuple[File, ReceivedFile]:
    """Everything that can be refused without the file's bytes is refused here."""
    unknown = sorted(form.fields.keys() - _FIELDS)
    if unknown:
        raise unknown_parameter(unknown[0])
    purpose = parse_purpose(form.fields.get("purpose"))
    expires_s = parse_expiry(
        form.fields.get("expires_after[anchor]"), form.fields.get("expires_after[seconds]")
    )
    received = form.file
    if received is None:
        raise missing_parameter("file")
    filename = clean_filename(received.filename)
    if received.num_bytes == 0:
        raise InvalidRequest("The file is empty.", param="file", code="empty_file")
    check_extension(filename, purpose)
    if purpose is Purpose.BATCH and expires_s is None:
        expires_s = BATCH_EXPIRY_S
    created_at = int(time.time())
    file = File(
        id=file_id,
        project_id=project_id,
        filename=filename,
        purpose=purpose.value,
        num_bytes=received.num_bytes,
        status="processed",
        status_details=None,
        created_at=created_at,
        expires_at=None if expires_s is None else created_at + expires_s,
        blob=file_id,
    )
    return file, received


def _idempotent(
    upload: Upload, received: ReceivedFile, form: ReceivedForm
) -> IdempotentCall | None:
    fields = [f"{name}={value}" for name, value in sorted(form.fields.items())]
    return idempotent_call(
        upload.project_id,
        _ROUTE,
        upload.idempotency_key,
        received.filename,
        received.sha256,
        *fields,
    )
