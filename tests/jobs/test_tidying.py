from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from server.blobs import LocalBlobs
from server.config import Config
from server.store import Store
from server.store.models import insert_model
from server.store.records import ModelKind
from server.supervisor.janitor import Janitor
from server.supervisor.patience import Patience
from server.supervisor.trained_models import install
from tests.jobs.factories import (
    INTERRUPTED,
    STARTED,
    make_job,
    make_project,
    make_queued,
    new_file,
    new_model,
)
from tests.jobs.test_job_states import outcome_of


def test_equal_weights_share_one_directory_and_others_do_not(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        folder = tmp_path / name / "sub"
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(content)
    root = tmp_path / "root"
    a, b, c = (install(tmp_path / name, root) for name in "abc")
    assert a == b
    assert a != c
    assert (a / "sub" / "weights").read_bytes() == b"1"
    assert sorted(root.iterdir()) == sorted({a, c})
    with pytest.raises(FileNotFoundError):
        install(tmp_path / "none", root)


async def test_what_nobody_can_reach_is_removed_and_nothing_else(
    store: Store, tmp_path: Path
) -> None:
    config = Config(data=tmp_path)
    blobs = LocalBlobs(config.files_dir)
    project = await make_project(store)
    await make_queued(store, project)
    job = await store.progress.claim_training("me", 60, STARTED, INTERRUPTED)
    assert job is not None
    outcome = outcome_of(job)
    assert await store.progress.succeed("me", job.id, outcome)
    paths = {name: config.adapters_dir / name for name in ("gone", "shared", "started_from")}
    for path in paths.values():
        path.mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    wanted = {
        "ft:gone": paths["gone"],
        "ft:shared": paths["shared"],
        "ft:twin": paths["shared"],
        "ft:started_from": paths["started_from"],
        "ft:outside": outside,
    }
    async with store.models._database.write() as connection:
        for number, (name, path) in enumerate(wanted.items(), start=100):
            model = new_model(job, name, number, ModelKind.ADAPTER)
            await insert_model(connection, replace(model, path=str(path)))
    await make_job(store, project, adapter_path=str(paths["started_from"]))
    for name in ("ft:gone", "ft:shared", "ft:started_from", "ft:outside"):
        assert await store.models.delete(name, project.id) is not None
    file = new_file(project.id, blob="deleted")
    await store.files.add(file)
    writer = await blobs.create("deleted")
    await writer.commit()
    await store.files.delete(project.id, file.id)
    abandoned, recent = (config.files_dir / "unfinished" / name for name in ("old", "new"))
    for path in (abandoned, recent):
        path.write_bytes(b"x")
    os.utime(abandoned, (0, time.time() - 2 * 24 * 3600))
    janitor = Janitor("me", config, store, blobs, Patience())
    for _ in range(2):
        await janitor.tidy()
    assert sorted(p.name for p in config.adapters_dir.iterdir()) == ["shared", "started_from"]
    assert outside.is_dir()
    assert not (config.files_dir / "deleted").exists()
    assert not abandoned.exists()
    assert recent.exists()
