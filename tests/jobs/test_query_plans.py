"""Lists and look-ups read an index, whatever the store holds: no table is scanned or sorted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine

from server.store import Store, open_store
from tests.jobs.factories import make_job, make_project


class Statements:
    """The SELECTs that the process sends to SQLite."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def note(self, _1: Any, _2: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH")):
            self.seen.append((statement, parameters))


async def page_jobs(store: Store, project: str, job: str) -> None:
    await store.jobs.page(project, after=job, limit=20)


async def page_jobs_by_metadata(store: Store, project: str, job: str) -> None:
    await store.jobs.page(project, after=job, limit=20, metadata={"a": "1"})


async def page_events(store: Store, _: str, job: str) -> None:
    newest = (await store.jobs.events_page(job, after=None, limit=1)).items[0]
    await store.jobs.events_page(job, after=newest.id, limit=20)


async def find_job(store: Store, project: str, job: str) -> None:
    assert await store.jobs.find(project, job) is not None


@pytest.mark.parametrize("ask", [page_jobs, page_jobs_by_metadata, page_events, find_job])
async def test_what_is_asked_of_jobs_reads_indexes(
    tmp_path: Path, ask: Callable[[Store, str, str], Awaitable[None]]
) -> None:
    path = tmp_path / "store.db"
    store = await open_store(f"sqlite+aiosqlite:///{path}")
    project = await make_project(store)
    job = await make_job(store, project)
    statements = Statements()
    event.listen(Engine, "before_cursor_execute", statements.note)
    try:
        await ask(store, project.id, job.id)
    finally:
        event.remove(Engine, "before_cursor_execute", statements.note)
        await store.close()
    assert statements.seen
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        for statement, parameters in statements.seen:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps = [row[3] for row in plan]
            assert steps
            assert not [s for s in steps if s.startswith(("SCAN", "USE TEMP"))], (statement, steps)
    engine.dispose()
