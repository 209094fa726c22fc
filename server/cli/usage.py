"""`tuneyard usage`: what was asked of a service, running or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from server.cli.listing import show
from server.cli.options import ConfigPath, load, refuse
from server.cli.store import STATUS, opened_store
from server.config import Config
from server.store.usage import MAX_GROUPS, TooManyGroupsError, UsageGroup, UsageQuery, UsageSum

_DAY_S = 24 * 3600


class By(StrEnum):
    DAY = "day"
    PROJECT = "project"
    KEY = "key"
    MODEL = "model"


_GROUPS = {By.PROJECT: UsageGroup.PROJECT, By.KEY: UsageGroup.KEY, By.MODEL: UsageGroup.MODEL}


def usage(
    config: ConfigPath = None,
    days: Annotated[int, typer.Option(min=1, max=366, help="Today (UTC) and those before.")] = 30,
    by: Annotated[
        list[By] | None, typer.Option(help="What it is split by; several times for several.")
    ] = None,
    project: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Of these projects only.")
    ] = None,
) -> None:
    """Show requests and tokens by day, project, key or model.

    Example: tuneyard usage --days 7 --by day --by model
    """
    groups = by or [By.DAY, By.PROJECT, By.MODEL]
    try:
        sums = asyncio.run(_sums(load(config), days, groups, project or []))
    except TooManyGroupsError:
        refuse(f"There are more than {MAX_GROUPS} lines; use fewer --by or --days.", STATUS)
    heads = [group.value for group in By if group in groups]
    show(
        [*heads, "requests", "input", "cached", "output"],
        [_row(total, groups) for total in sums],
    )


async def _sums(
    config: Config, days: int, groups: Sequence[By], projects: Sequence[str]
) -> Sequence[UsageSum]:
    """Raises TooManyGroupsError."""
    today = int(time.time()) // _DAY_S * _DAY_S
    start, end = today - (days - 1) * _DAY_S, today + _DAY_S
    width = _DAY_S if By.DAY in groups else end
    by = frozenset(_GROUPS[group] for group in groups if group in _GROUPS)
    query = UsageQuery(start, end, width, by, project_ids=projects)
    async with opened_store(config) as store:
        sums, reached = await store.usage.sums(query)
    if reached < end:
        raise TooManyGroupsError
    return sums


def _row(total: UsageSum, groups: Sequence[By]) -> list[str]:
    day = datetime.fromtimestamp(total.start, UTC).strftime("%Y-%m-%d")
    places = {
        By.DAY: day,
        By.PROJECT: total.project_id or "",
        By.KEY: total.key_id or "",
        By.MODEL: total.model or "",
    }
    amounts = (
        total.requests,
        total.prompt_tokens,
        total.cached_tokens,
        total.completion_tokens,
    )
    return [*(places[group] for group in By if group in groups), *(f"{n:,}" for n in amounts)]
