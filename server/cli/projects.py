"""`tuneyard projects`: the projects of a service, running or not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from server.cli.listing import minute, show
from server.cli.options import ConfigPath, load, refuse
from server.cli.store import STATUS, check_name, live_project, opened_store
from server.config import Config
from server.first_key import DEFAULT_PROJECT_ID
from server.store.records import OPERATOR, Project

app = typer.Typer(
    name="projects",
    no_args_is_help=True,
    help="""List, create and archive projects.

A project is a tenant: its keys see its own files, jobs and models, and no one else's. The service \
may be running: what is changed here holds within a second.""",
)
_PAGE = 100


@app.command("list")
def list_projects(
    config: ConfigPath = None,
    every: Annotated[bool, typer.Option("--all", help="Archived ones too.")] = False,
) -> None:
    """Show the projects: id, name, and since when.

    Example: tuneyard projects list --all
    """
    projects = asyncio.run(_list(load(config), every))
    show(
        ["id", "name", "since", *(["archived"] if every else [])],
        [_row(project, every) for project in projects],
    )


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Shown in lists; may be used more than once.")],
    config: ConfigPath = None,
) -> None:
    """Make a project and print its id.

    Example: tuneyard keys create ci --project $(tuneyard projects create research)
    """
    check_name(name, "project")
    typer.echo(asyncio.run(_create(load(config), name)))


@app.command()
def archive(
    project_id: Annotated[
        str, typer.Argument(metavar="ID", help="As `tuneyard projects list` shows it.")
    ],
    config: ConfigPath = None,
) -> None:
    """End a project's keys, for good. Its files, jobs and models stay.

    Example: tuneyard projects archive proj_4xZ...
    """
    if project_id == DEFAULT_PROJECT_ID:
        refuse("The default project cannot be archived.", STATUS)
    asyncio.run(_archive(load(config), project_id))
    Console(stderr=True).print(f"{project_id} is archived.", markup=False, highlight=False)


async def _list(config: Config, every: bool) -> Sequence[Project]:
    found: list[Project] = []
    has_more = True
    async with opened_store(config) as store:
        while has_more:
            after = found[-1].id if found else None
            page = await store.projects.page(after=after, limit=_PAGE, include_archived=every)
            found += page.items
            has_more = page.has_more
    return found


async def _create(config: Config, name: str) -> str:
    async with opened_store(config) as store:
        return (await store.projects.create(name, OPERATOR)).id


async def _archive(config: Config, project_id: str) -> None:
    async with opened_store(config) as store:
        await live_project(store, project_id)
        await store.projects.archive(project_id, OPERATOR)


def _row(project: Project, with_ends: bool) -> list[str]:
    row = [project.id, project.name, minute(project.created_at)]
    if with_ends:
        row.append("" if project.archived_at is None else minute(project.archived_at))
    return row
