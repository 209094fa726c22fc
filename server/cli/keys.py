"""`tuneyard keys`: the API keys of a service, running or not."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from server.cli.listing import minute, show
from server.cli.options import ConfigPath, load, refuse
from server.cli.store import STATUS, check_name, live_project, opened_store
from server.config import Config
from server.first_key import (
    DEFAULT_PROJECT_ID,
    DEFAULT_PROJECT_NAME,
    new_admin_key,
    new_key,
)
from server.scopes import READ, SCOPES, check_scope
from server.store.records import OPERATOR, AdminKey, ApiKey, NewKey

app = typer.Typer(
    name="keys",
    no_args_is_help=True,
    help="""List, create and revoke API keys.

The service may be running: what is changed here holds within a second. `tuneyard keys create ci` \
prints the new key, and nothing keeps it.""",
)
_SECONDS = {"m": 60, "h": 3600, "d": 24 * 3600}
_DURATION = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_ADMIN = "(admin)"


@app.command("list")
def list_keys(
    config: ConfigPath = None,
    every: Annotated[bool, typer.Option("--all", help="Ended ones too.")] = False,
) -> None:
    """Show the keys: id, name, how each begins, its project, what it is limited to, and since when.

    Example: tuneyard keys list --all
    """
    keys, admin_keys = asyncio.run(_list(load(config)))
    now = int(time.time())
    shown = [key for key in (*keys, *admin_keys) if every or _ended_at(key, now) is None]
    heads = ["id", "name", "begins", "project", "from", "since"]
    limits = [_limits(key) for key in shown]
    columns = [[_row(key) for key in shown]]
    if any(limits):
        heads.append("limited to")
        columns.append([[limit] for limit in limits])
    if every:
        heads.append("ended")
        columns.append([[_minute(_ended_at(key, now))] for key in shown])
    rows = zip(*columns, strict=True)
    show(heads, [[cell for part in parts for cell in part] for parts in rows])


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for; shown in the list.")],
    config: ConfigPath = None,
    project: Annotated[
        str, typer.Option(metavar="ID", help="As `tuneyard projects list` shows it.")
    ] = DEFAULT_PROJECT_ID,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A part of the API that it opens, several times for several: "
            f"{', '.join(SCOPES)}; with '{READ}' behind it, for reading only. Default: all."
        ),
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="Ids of the models that it may use, with commas between.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it ends: 90m, 12h, 30d.")
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="A key for /v1/organization, and nothing else.")
    ] = False,
) -> None:
    """Make a key and print it, once.

    Example: KEY=$(tuneyard keys create ci --scope chat --models qwen --expires 30d)
    """
    check_name(name, "key")
    settings = load(config)
    expires_at = None if expires is None else int(time.time()) + _duration(expires)
    if admin:
        if project != DEFAULT_PROJECT_ID or scope or models is not None:
            refuse("An admin key is of no project; --project, --scope and --models are not for it.")
        typer.echo(asyncio.run(_create_admin(settings, name, expires_at)))
        return
    new = NewKey(name, scopes=_scopes(scope), models=_models(models), expires_at=expires_at)
    typer.echo(asyncio.run(_create(settings, project, new)))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `tuneyard keys list` shows it.")],
    config: ConfigPath = None,
) -> None:
    """End a key. Requests with it are refused from the next second on.

    Example: tuneyard keys revoke key_4xZ...
    """
    if not asyncio.run(_revoke(load(config), key_id)):
        refuse(f"There is no live key {key_id!r}; see `tuneyard keys list`.", STATUS)
    Console(stderr=True).print(f"{key_id} is revoked.", markup=False, highlight=False)


async def _list(config: Config) -> tuple[Sequence[ApiKey], Sequence[AdminKey]]:
    async with opened_store(config) as store:
        return await store.keys.list_all(), await store.admin_keys.list_all()


async def _create(config: Config, project_id: str, new: NewKey) -> str:
    async with opened_store(config) as store:
        if project_id == DEFAULT_PROJECT_ID:
            await store.projects.ensure(DEFAULT_PROJECT_ID, DEFAULT_PROJECT_NAME)
        project = await live_project(store, project_id)
        key = new_key()
        await store.keys.add(project.id, key, new)
        return key


async def _create_admin(config: Config, name: str, expires_at: int | None) -> str:
    async with opened_store(config) as store:
        key = new_admin_key()
        await store.admin_keys.add(key, name, expires_at, OPERATOR)
        return key


async def _revoke(config: Config, key_id: str) -> bool:
    async with opened_store(config) as store:
        if await store.keys.revoke(key_id):
            return True
        return await store.admin_keys.revoke(key_id, OPERATOR)


def _duration(text: str) -> int:
    match = _DURATION.fullmatch(text)
    if match is None:
        refuse(f"--expires takes minutes, hours or days such as 90m, 12h or 30d, not {text!r}.")
    return int(match[1]) * _SECONDS[match[2]]


def _scopes(given: list[str] | None) -> frozenset[str] | None:
    try:
        return frozenset(check_scope(scope) for scope in given) if given else None
    except ValueError as error:
        refuse(f"--scope: {error}.")


def _models(given: str | None) -> frozenset[str] | None:
    if given is None:
        return None
    names = frozenset(name.strip() for name in given.split(",") if name.strip())
    if not names:
        refuse("--models takes at least one model's id.")
    return names


def _ended_at(key: ApiKey | AdminKey, now: int) -> int | None:
    ends = [key.revoked_at]
    if key.expires_at is not None and key.expires_at <= now:
        ends.append(key.expires_at)
    if isinstance(key, ApiKey):
        ends.append(key.project.archived_at)
    return min((end for end in ends if end is not None), default=None)


def _row(key: ApiKey | AdminKey) -> list[str]:
    whose = [_ADMIN, "created"]
    if isinstance(key, ApiKey):
        whose = [key.project.id, key.origin.value]
    return [key.id, key.name, key.prefix, *whose, minute(key.created_at)]


def _limits(key: ApiKey | AdminKey) -> str:
    limits: list[str] = []
    if isinstance(key, ApiKey):
        limits = [*sorted(key.scopes or ()), *sorted(key.models or ())]
    if key.expires_at is not None:
        limits.append(f"until {minute(key.expires_at)}")
    return ", ".join(limits)


def _minute(at: int | None) -> str:
    return "" if at is None else minute(at)
