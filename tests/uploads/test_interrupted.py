"""Uploads and files that end while the store is busy, or while another call ends them."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from server.blobs import LocalBlobs
from server.config import Config
from server.errors import InvalidRequest
from server.files.schemas import Purpose
from server.files.service import FileService
from server.store import Store, open_store
from server.store.records import Upload, UploadPart, UploadStatus
from server.supervisor.janitor import Janitor
from server.supervisor.patience import Patience
from server.uploads.schemas import CompleteUpload, CreateUpload
from server.uploads.service import UploadService

DATA = b"0123456789"
PROJECT = "proj_a"
MAX_BYTES = 1024


class MeddledBlobs(LocalBlobs):
    """Something else happens before a blob is read or deleted, once."""

    before_read: Callable[[], Awaitable[object]] | None = None
    before_delete: Callable[[], None] | None = None

    async def read(self, key: str) -> AsyncIterator[bytes]:
        if self.before_read is not None:
            happens, self.before_read = self.before_read, None
            await happens()
        async for chunk in super().read(key):
            yield chunk

    async def delete(self, key: str) -> None:
        if self.before_delete is not None:
            happens, self.before_delete = self.before_delete, None
            happens()
        await super().delete(key)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'tuneyard.db'}")
    await store.projects.ensure(PROJECT, "A")
    yield store
    await store.close()


@pytest.fixture
def blobs(tmp_path: Path) -> MeddledBlobs:
    return MeddledBlobs(tmp_path / "files")


@pytest.fixture
def service(store: Store, blobs: MeddledBlobs) -> UploadService:
    return UploadService(store, blobs, MAX_BYTES)


async def announced(service: UploadService) -> Upload:
    wanted = CreateUpload(
        filename="a", purpose=Purpose.VISION, bytes=len(DATA), mime_type="text/plain"
    )
    return await service.create(PROJECT, wanted)


async def with_part(service: UploadService) -> tuple[Upload, CompleteUpload]:
    upload = await announced(service)
    body = b'--b\r\ncontent-disposition: form-data; name="data"; filename="a"\r\n\r\n'

    async def chunks() -> AsyncIterator[bytes]:
        yield body + DATA + b"\r\n--b--\r\n"

    content_type = "multipart/form-data; boundary=b"
    part = await service.receive_part(PROJECT, upload.id, content_type, chunks())
    return upload, CompleteUpload(part_ids=[part.id])


async def test_of_two_completions_at_once_one_makes_the_file_and_the_other_says_so(
    service: UploadService, blobs: MeddledBlobs, store: Store, tmp_path: Path
) -> None:
    upload, wanted = await with_part(service)
    blobs.before_read = lambda: service.complete(PROJECT, upload.id, wanted)
    with pytest.raises(InvalidRequest, match="is completed, not pending") as told:
        await service.complete(PROJECT, upload.id, wanted)
    assert told.value.code == "invalid_upload_status"
    found = await store.uploads.find(PROJECT, upload.id)
    assert found is not None
    kept = [path.name for path in (tmp_path / "files").iterdir() if path.is_file()]
    assert kept == [found.file_id]


@pytest.mark.parametrize("ending", ["complete", "cancel"])
async def test_an_upload_that_has_ended_is_answered_though_its_parts_cannot_be_forgotten(
    service: UploadService, blobs: MeddledBlobs, store: Store, tmp_path: Path, ending: str
) -> None:
    upload, wanted = await with_part(service)
    other = sqlite3.connect(tmp_path / "tuneyard.db", isolation_level=None)
    blobs.before_delete = lambda: other.execute("BEGIN IMMEDIATE") and None
    if ending == "complete":
        ended, file = await service.complete(PROJECT, upload.id, wanted)
        assert ended.status is UploadStatus.COMPLETED
        assert b"".join([chunk async for chunk in blobs.read(file.blob)]) == DATA
    else:
        assert (await service.cancel(PROJECT, upload.id)).status is UploadStatus.CANCELLED
    assert len(await store.uploads.parts(upload.id)) == 1
    other.execute("ROLLBACK")
    other.close()
    await Janitor("me", Config(data=tmp_path), store, blobs, Patience()).tidy()
    assert await store.uploads.parts(upload.id) == {}


async def test_a_file_is_deleted_though_its_bytes_cannot_be_forgotten(
    service: UploadService, blobs: MeddledBlobs, store: Store, tmp_path: Path
) -> None:
    upload, wanted = await with_part(service)
    _, file = await service.complete(PROJECT, upload.id, wanted)
    other = sqlite3.connect(tmp_path / "tuneyard.db", isolation_level=None)
    blobs.before_delete = lambda: other.execute("BEGIN IMMEDIATE") and None
    await FileService(store, blobs, MAX_BYTES).delete(PROJECT, file.id)
    other.execute("ROLLBACK")
    other.close()
    assert await store.files.find(PROJECT, file.id) is None
    assert [left.id for left in await store.files.list_reclaimable()] == [file.id]


async def test_one_round_of_the_janitor_removes_all_parts_there_are(
    service: UploadService, blobs: MeddledBlobs, store: Store, tmp_path: Path
) -> None:
    upload = await announced(service)
    for number in range(250):
        part = UploadPart(f"part_{number}", upload.id, 0, int(time.time()))
        assert await store.uploads.add_part(part, 1000, 1000)
    assert await store.uploads.cancel(upload.id)
    await Janitor("me", Config(data=tmp_path), store, blobs, Patience()).tidy()
    assert await store.uploads.parts(upload.id) == {}
