from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, bindparam, select, text

from server.store import Store, open_store
from server.store.cursors import UnknownCursorError
from server.store.database import Database
from server.store.keys import KeyRevokedError, hash_key
from server.store.models import insert_model
from server.store.quick_reads import QuickReads
from server.store.records import (
    OPERATOR,
    Engine,
    EngineState,
    ModelKind,
    RateLimit,
    Replay,
    Usage,
)
from server.store.tables import metadata, projects
from server.store.usage import RecentUse
from server.usage import minute_of
from tests.jobs.factories import CREATED, make_job, make_project, new_file, new_job, new_model


def _differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


async def test_migrations_create_exactly_the_tables(store: Store, database_url: str) -> None:
    database = Database(database_url)
    async with database.read() as connection:
        assert await connection.run_sync(_differences) == []
    await database.close()


def test_many_processes_may_start_on_an_empty_database_at_once(database_url: str) -> None:
    code = (
        "import asyncio, sys; from server.store import open_store\n"
        "async def main():\n"
        "    store = await open_store(sys.argv[1]); await store.models.next_adapter_uid()\n"
        "    await store.close()\n"
        "asyncio.run(main())"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    running = [
        subprocess.Popen([sys.executable, "-c", code, database_url], env=env) for _ in range(3)
    ]
    assert [process.wait(120) for process in running] == [0, 0, 0]


async def test_a_key_is_found_by_its_hash_until_revoked(store: Store) -> None:
    project = await make_project(store)
    added = await store.keys.add(project.id, "sk-secret", "first")
    assert await store.keys.find(hash_key("sk-secret")) == added
    assert added.project == project
    assert await store.keys.add(project.id, "sk-secret", "again") == added
    assert not await store.keys.revoke(added.id, "proj_other")
    assert await store.keys.revoke(added.id, project.id)
    assert not await store.keys.revoke(added.id)
    assert await store.keys.find(hash_key("sk-secret")) is None
    with pytest.raises(KeyRevokedError):
        await store.keys.add(project.id, "sk-secret", "again")
    assert [key.id for key in await store.keys.list_all()] == [added.id]


async def test_the_key_itself_is_not_in_the_database(store: Store, tmp_path: Path) -> None:
    project = await make_project(store)
    await store.keys.add(project.id, "sk-very-secret-indeed", "first")
    await store.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("tuneyard.db*"))
    assert b"very-secret-indeed" not in kept


async def test_projects_of_one_name_get_different_slugs(store: Store) -> None:
    first, second = await make_project(store), await make_project(store)
    assert (first.slug, second.slug) == ("acme-inc", "acme-inc-2")
    assert await store.projects.ensure(first.id, "renamed") == first


async def test_what_is_made_at_once_is_made(store: Store) -> None:
    made = await asyncio.gather(*(store.projects.create("Same name", OPERATOR) for _ in range(4)))
    assert len({project.slug for project in made}) == 4
    mine = made[0]
    again = await asyncio.gather(*(store.projects.ensure(mine.id, "x") for _ in range(4)))
    assert set(again) == {mine}
    await asyncio.gather(*(store.aliases.put(mine.id, "a", f"m{n}", 9) for n in range(4)))
    alias = await store.aliases.find(mine.id, "a")
    assert alias is not None
    await store.aliases.put(mine.id, "a", "moved", 1)
    assert await store.aliases.find(mine.id, "a") == replace(alias, points_to="moved")
    tuned = new_model(await make_job(store, mine), f"ft:base:acme::{mine.id}", 1)
    async with store.models._database.write() as connection:
        await insert_model(connection, tuned)
    others = [project.id for project in made[1:]]
    granted = await asyncio.gather(*(store.permissions.grant(tuned.id, others) for _ in range(4)))
    assert len(set(granted)) == 1


async def test_numbers_of_a_limit_that_are_changed_at_once_are_both_kept(store: Store) -> None:
    project = await make_project(store)

    def change(**numbers: int) -> Awaitable[RateLimit | None]:
        return store.projects.change_rate_limit(
            project.id, "m", lambda before: replace(before, **numbers), OPERATOR
        )

    changed = await asyncio.gather(change(requests=7), change(tokens=900))
    assert RateLimit(7, 900) in changed
    assert await store.projects.rate_limits(project.id) == {"m": RateLimit(7, 900)}


async def test_an_archived_project_gets_no_key(store: Store) -> None:
    project = await make_project(store)
    await store.projects.archive(project.id, OPERATOR)
    with pytest.raises(KeyRevokedError):
        await store.keys.add(project.id, "sk-late", "late")
    assert project.id not in {key.project.id for key in await store.keys.list_all()}


async def test_a_project_sees_public_models_and_its_own(store: Store) -> None:
    mine, other = await make_project(store), await make_project(store)
    await store.models.put_base("base", "/m", "tuneyard", 5)
    await store.models.put_base("base", "/m2", "tuneyard", 9)
    job = await make_job(store, mine)
    database = store.models._database
    async with database.write() as connection:
        await insert_model(connection, new_model(job, "ft:base:acme::1", 1))
        await insert_model(
            connection, new_model(job, "ft:base:acme::1:ckpt-step-2", 2, ModelKind.CHECKPOINT)
        )
    assert [m.id for m in await store.models.list_for(mine.id)] == ["base", "ft:base:acme::1"]
    assert [m.id for m in await store.models.list_for(other.id)] == ["base"]
    base = await store.models.find("base", other.id)
    assert base is not None
    assert (base.path, base.created_at) == ("/m2", 5)
    assert await store.models.find("ft:base:acme::1", other.id) is None
    assert await store.models.find("ft:base:acme::1:ckpt-step-2", mine.id) is not None
    assert await store.models.delete("ft:base:acme::1", other.id) is None
    assert await store.models.delete("base", mine.id) is None
    deleted = await store.models.delete("ft:base:acme::1", mine.id)
    assert deleted is not None
    assert await store.models.find("ft:base:acme::1", mine.id) is None


async def test_adapter_numbers_are_never_given_twice(store: Store) -> None:
    numbers = await asyncio.gather(*(store.models.next_adapter_uid() for _ in range(20)))
    assert sorted(numbers) == list(range(1, 21))


async def test_engines_that_take_requests_are_offered_though_their_supervisor_is_silent(
    store: Store,
) -> None:
    now = time.time()
    for name, state, seen in (
        ("a", EngineState.READY, now),
        ("b", EngineState.STARTING, now),
        ("c", EngineState.READY, now - 1000),
    ):
        await store.engines.put(Engine(name, "m", f"unix:/{name}", None, state, name, 1, seen))
    assert [e.id for e in await store.engines.list_ready()] == ["a", "c"]
    await store.engines.remove("a")
    assert [e.id for e in await store.engines.list_all()] == ["b", "c"]
    await store.engines.take_over("c", "successor", ["c"])
    await store.engines.take_over("b", "successor", ["c"])
    assert [(e.id, e.supervisor_id) for e in await store.engines.list_all()] == [("c", "successor")]


async def test_a_supervisor_that_slept_keeps_its_engines(store: Store) -> None:
    silent_since = time.time() - 1000
    for name in ("mine", "dead"):
        engine = Engine(name, "m", "unix:/e", None, EngineState.READY, name, 1, silent_since)
        await store.engines.put(engine)
    await store.engines.remove_silent("mine")
    assert [e.id for e in await store.engines.list_all()] == ["mine"]
    await store.engines.beat("mine")
    assert [e.id for e in await store.engines.list_ready()] == ["mine"]


async def test_pages_follow_one_another_in_both_directions(store: Store) -> None:
    project, other = await make_project(store), await make_project(store)
    added = [new_file(project.id, purpose="batch" if n % 2 else "fine-tune") for n in range(7)]
    for file in added:
        await store.files.add(file)
    foreign = new_file(other.id)
    await store.files.add(foreign)

    async def walk(ascending: bool, purpose: str | None) -> list[str]:
        seen: list[str] = []
        while True:
            page = await store.files.page(
                project.id,
                after=seen[-1] if seen else None,
                limit=2,
                ascending=ascending,
                purpose=purpose,
            )
            seen += [file.id for file in page.items]
            if not page.has_more:
                return seen

    assert await walk(True, None) == [file.id for file in added]
    assert await walk(False, None) == [file.id for file in reversed(added)]
    assert await walk(True, "batch") == [file.id for file in added if file.purpose == "batch"]
    for unknown in ("file-none", foreign.id):
        with pytest.raises(UnknownCursorError):
            await store.files.page(project.id, after=unknown, limit=2)


async def test_an_expired_or_deleted_file_is_gone_and_its_bytes_reclaimable(store: Store) -> None:
    project = await make_project(store)
    kept, deleted = new_file(project.id), new_file(project.id)
    expired = new_file(project.id, expires_at=int(time.time()) - 1)
    for file in (kept, deleted, expired):
        await store.files.add(file)
    assert await store.files.delete("proj_other", deleted.id) is None
    assert await store.files.delete(project.id, deleted.id) == deleted
    assert await store.files.delete(project.id, deleted.id) is None
    assert await store.files.find(project.id, expired.id) is None
    page = await store.files.page(project.id, after=None, limit=10)
    assert [file.id for file in page.items] == [kept.id]
    assert {f.id for f in await store.files.list_reclaimable()} == {deleted.id, expired.id}
    await store.files.set_reclaimed(deleted.id)
    assert {f.id for f in await store.files.list_reclaimable()} == {expired.id}


async def test_jobs_are_found_by_metadata_whatever_its_characters(store: Store) -> None:
    project = await make_project(store)
    odd = {"a.b": "1", 'quo"te': "x'y", "$[0]": "é"}
    plain = await make_job(store, project)
    tagged = await make_job(store, project, metadata=odd)

    async def found(**filters: object) -> list[str]:
        page = await store.jobs.page(project.id, after=None, limit=5, **filters)  # type: ignore[arg-type]
        return [job.id for job in page.items]

    assert await found(metadata={"a.b": "1"}) == [tagged.id]
    assert await found(metadata=odd) == [tagged.id]
    assert await found(metadata={"a.b": "2"}) == []
    assert await found(metadata={"a": "1"}) == []
    assert await found(without_metadata=True) == [plain.id]


async def test_a_repeated_creation_keeps_the_first_answer_only(store: Store) -> None:
    project = await make_project(store)
    jobs = [new_job(project) for _ in range(5)]
    answers = await asyncio.gather(
        *(store.jobs.create(job, CREATED, ("jobs", "k", Replay("h", job.id))) for job in jobs)
    )
    page = await store.jobs.page(project.id, after=None, limit=10)
    assert len(page.items) == 1
    assert answers.count(None) == 1
    assert {a.response for a in answers if a is not None} == {page.items[0].id}


async def test_usage_adds_up_within_a_minute(store: Store) -> None:
    entry = Usage("p", "k", "m", 60, 1, 2, 3, 4)
    await store.usage.add([entry, entry])
    await store.usage.add([entry])
    async with store.usage._database.read() as connection:
        rows = await connection.execute(text("SELECT sum(requests), sum(cached_tokens) FROM usage"))
        assert tuple(rows.one()) == (3, 12)


async def test_recent_use_is_summed_by_base_and_its_most_comes_first(store: Store) -> None:
    project = await make_project(store)
    job = await make_job(store, project)
    tuned = [f"ft:base:acme::{number}" for number in (1, 2)]
    async with store.usage._database.write() as connection:
        for uid, name in enumerate(tuned, 1):
            await insert_model(connection, new_model(job, name, uid))
    minute = minute_of(time.time()) + 60
    entries = [Usage("p", "k", name, minute, 2, 3, 4, 0) for name in (*tuned, "base")]
    await store.usage.add([Usage("q", "l", "other", minute, 1, 0, 0, 0), *entries])
    assert await store.usage.recent() == [
        RecentUse("p", "k", "base", minute, 6, 21),
        RecentUse("q", "l", "other", minute, 1, 0),
    ]


async def test_everything_is_there_after_a_reopening(store: Store, database_url: str) -> None:
    project = await make_project(store)
    job = await make_job(store, project, metadata={"a": "b"})
    again = await open_store(database_url)
    assert await again.jobs.find(project.id, job.id) == job
    assert await again.jobs.find("proj_other", job.id) is None
    await again.close()


async def test_a_quick_read_sees_what_was_committed_and_waits_for_a_busy_database(
    tmp_path: Path,
) -> None:
    columns = [projects.c[name] for name in ("id", "name", "slug", "created_at")]
    named = select(*columns).where(projects.c.name == bindparam("name"))
    other = sqlite3.connect(tmp_path / "plain.db", isolation_level=None)
    other.execute("CREATE TABLE projects (id, name, slug, created_at)")
    reads = QuickReads(str(tmp_path / "plain.db"), busy_timeout_s=60)
    assert await reads.fetch(named, {"name": "a"}) == []
    other.execute("BEGIN EXCLUSIVE")
    other.execute("INSERT INTO projects VALUES ('p', 'a', 's', 1)")
    waiting = asyncio.ensure_future(reads.fetch(named, {"name": "a"}))
    await asyncio.sleep(0)
    other.execute("COMMIT")
    assert [row.slug for row in await waiting] == ["s"]
    reads.close()
    other.close()
