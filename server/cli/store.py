"""The store of a service, running or not, for commands that administer it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from server.cli.options import refuse
from server.config import Config
from server.data_directory import DataUnusableError, check_database, prepare_data
from server.store import Store, StoreUnusableError, open_store, told_to_operator
from server.store.records import Project

STATUS = 1
"""Of a command that could not do what it was asked."""
MAX_NAME_LENGTH = 100


@asynccontextmanager
async def opened_store(config: Config) -> AsyncGenerator[Store]:
    """Says why and ends the process if it cannot be used."""
    try:
        prepare_data(config)
        check_database(config)
        store = await open_store(config.database_url)
        try:
            with told_to_operator(config.database_url):
                yield store
        finally:
            await store.close()
    except (DataUnusableError, StoreUnusableError) as error:
        refuse(str(error), STATUS)


def check_name(name: str, whose: str) -> None:
    """Refuses one that cannot be shown."""
    if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
        refuse(f"A {whose}'s name has 1 to {MAX_NAME_LENGTH} printable characters.")


async def live_project(store: Store, project_id: str) -> Project:
    """Refuses an id that is not a live project's."""
    project = await store.projects.find(project_id)
    if project is None or project.archived_at is not None:
        refuse(f"There is no live project {project_id!r}; see `tuneyard projects list`.", STATUS)
    return project
