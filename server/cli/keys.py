"""`tuneyard keys`: the API keys of a service, running or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

import typer
from rich.console import Console

from server.cli.listing import minute, show
from server.cli.options import ConfigPath, load, refuse
from server.config import Config
from server.data_directory import DataUnusableError, check_database, prepare_data
from server.first_key import DEFAULT_PROJECT_ID, DEFAULT_PROJECT_NAME, new_key
from server.store import Store, StoreUnusableError, open_store, told_to_operator
from server.store.records import ApiKey

app = typer.Typer(
    name="keys",
    no_args_is_help=True,
    help="""List, create and revoke API keys.

The service may be running: what is changed here holds within a second. `tuneyard keys create ci` \
prints the new key, and nothing keeps it.""",
)
_STATUS = 1
_MAX_NAME_LENGTH = 100


@app.command("list")
def list_keys(
    config: ConfigPath = None,
    every: Annotated[bool, typer.Option("--all", help="Revoked ones too.")] = False,
) -> None:
    """Show the keys: id, name, how each begins, where it came from, since when.

    Example: tuneyard keys list --all
    """
    _show(asyncio.run(_list(load(config))), every)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for; shown in the list.")],
    config: ConfigPath = None,
) -> None:
    """Make a key and print it, once.

    Example: KEY=$(tuneyard keys create ci)
    """
    if not 0 < len(name) <= _MAX_NAME_LENGTH or not name.isprintable():
        refuse(f"A key's name has 1 to {_MAX_NAME_LENGTH} printable characters.")
    typer.echo(asyncio.run(_create(load(config), name)))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `tuneyard keys list` shows it.")],
    config: ConfigPath = None,
) -> None:
    """End a key. Requests with it are refused from the next second on.

    Example: tuneyard keys revoke key_4xZ...
    """
    if not asyncio.run(_revoke(load(config), key_id)):
        refuse(f"There is no live key {key_id!r}; see `tuneyard keys list`.", _STATUS)
    Console(stderr=True).print(f"{key_id} is revoked.", markup=False, highlight=False)


async def _list(config: Config) -> Sequence[ApiKey]:
    async with open_for_command(config) as store:
        return await store.keys.list_all()


async def _create(config: Config, name: str) -> str:
    async with open_for_command(config) as store:
        project = await store.keys.ensure_project(DEFAULT_PROJECT_ID, DEFAULT_PROJECT_NAME)
        key = new_key()
        await store.keys.add(project.id, key, name)
        return key


async def _revoke(config: Config, key_id: str) -> bool:
    async with open_for_command(config) as store:
        return await store.keys.revoke(key_id)


@asynccontextmanager
async def open_for_command(config: Config) -> AsyncGenerator[Store]:
    """The store of a service, running or not. What is wrong with it ends the command."""
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
        refuse(str(error), _STATUS)


def _show(keys: Sequence[ApiKey], with_ends: bool) -> None:
    heads = ["id", "name", "begins", "project", "from", "since"]
    show(
        [*heads, "revoked"] if with_ends else heads,
        [_row(key, with_ends) for key in keys if with_ends or key.revoked_at is None],
    )


def _row(key: ApiKey, with_ends: bool) -> list[str]:
    row = [key.id, key.name, key.prefix, key.project.id, key.origin.value, minute(key.created_at)]
    if with_ends:
        row.append("" if key.revoked_at is None else minute(key.revoked_at))
    return row
