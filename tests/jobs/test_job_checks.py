"""Checks of jobs' files that cannot go on."""

from __future__ import annotations

import asyncio
from pathlib import Path

from server.blobs import LocalBlobs, StorageFullError
from server.config import Config
from server.store import Store
from server.store.records import JobStatus, NewEvent
from server.supervisor.checking import check_job
from server.supervisor.patience import Patience
from tests.jobs.factories import make_job, make_project
from tests.jobs.live import GUARD_S


class FullBlobs(LocalBlobs):
    """Nothing is fetched: there is no room for it."""

    was_asked: asyncio.Event

    async def fetch(self, key: str, path: Path) -> None:
        self.was_asked.set()
        raise StorageFullError


async def test_a_cancelled_job_is_not_checked_again_when_there_is_no_room(
    store: Store, tmp_path: Path
) -> None:
    config = Config(data=tmp_path)
    blobs = FullBlobs(config.files_dir)
    blobs.was_asked = asyncio.Event()
    project = await make_project(store)
    await make_job(store, project)
    job = await store.progress.claim_validation("me", 600)
    assert job is not None
    async with asyncio.timeout(GUARD_S):
        check = asyncio.create_task(Patience().insist(check_job, job, "me", config, store, blobs))
        await blobs.was_asked.wait()
        assert await store.jobs.cancel(project.id, job.id, NewEvent("Cancelled"))
        await check
    found = await store.jobs.find(project.id, job.id)
    assert found is not None
    assert (found.status, found.owner) == (JobStatus.CANCELLED, None)
