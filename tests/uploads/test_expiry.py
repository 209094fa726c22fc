"""What becomes of uploads that nobody completes."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from server.blobs import LocalBlobs
from server.config import Config
from server.store import open_store
from server.store.records import Upload, UploadPart, UploadStatus
from server.supervisor.janitor import Janitor
from server.supervisor.patience import Patience


async def test_an_expired_upload_takes_nothing_and_its_parts_are_removed(tmp_path: Path) -> None:
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'tuneyard.db'}")
    blobs = LocalBlobs(tmp_path / "files")
    project = await store.projects.ensure("proj_a", "A")
    now = int(time.time())
    upload = Upload(
        id="upload_a",
        project_id=project.id,
        filename="a",
        purpose="vision",
        num_bytes=4,
        status=UploadStatus.PENDING,
        created_at=now,
        expires_at=now + 2,
        file_expires_s=None,
        file_id=None,
    )
    late = replace(upload, id="upload_b", created_at=now - 3600, expires_at=now - 1)
    for each in (upload, late):
        await store.uploads.add(each)
    writer = await blobs.create("part_a")
    await writer.write(b"1234")
    await writer.commit()
    part = UploadPart("part_a", upload.id, 4, now)
    assert await store.uploads.add_part(part, 10, 100)
    assert not await store.uploads.add_part(replace(part, id="part_b"), 10, 7)
    assert not await store.uploads.add_part(replace(part, id="part_b"), 1, 100)
    assert not await store.uploads.add_part(replace(part, id="part_b", upload_id=late.id), 10, 100)
    found = await store.uploads.find(project.id, late.id)
    assert found is not None
    assert found.status is UploadStatus.EXPIRED
    assert await store.uploads.num_pending(project.id) == 1
    janitor = Janitor("supervisor", Config(data=tmp_path), store, blobs, Patience())
    await janitor.tidy()
    assert (tmp_path / "files" / "part_a").exists()
    assert await store.uploads.cancel(upload.id)
    await janitor.tidy()
    assert not (tmp_path / "files" / "part_a").exists()
    assert await store.uploads.parts(upload.id) == {}
    await store.close()
