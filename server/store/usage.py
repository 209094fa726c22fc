"""Requests and tokens by project, key, model and minute."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import bindparam, func, literal_column, select, update
from sqlalchemy.sql.elements import ColumnElement

from server.store.database import Database
from server.store.records import Usage
from server.store.tables import models, usage

MAX_GROUPS = 10_000
"""Of one answer: more are not read at a time."""
_RECENT_S = 120
_AMOUNTS = (
    "requests",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "embedding_requests",
    "embedding_tokens",
    "batch_requests",
    "batch_tokens",
)
_BASE = func.coalesce(models.c.base, usage.c.model)
_RECENT = (
    select(
        usage.c.project_id,
        usage.c.key_id,
        _BASE.label("base"),
        usage.c.minute,
        func.sum(usage.c.requests - usage.c.batch_requests).label("sum_requests"),
        func.sum(usage.c.prompt_tokens + usage.c.completion_tokens - usage.c.batch_tokens).label(
            "sum_tokens"
        ),
    )
    .outerjoin(models, models.c.id == usage.c.model)
    .where(usage.c.minute > bindparam("since"))
    .group_by(usage.c.project_id, usage.c.key_id, _BASE, usage.c.minute)
    .order_by(func.sum(usage.c.requests).desc())
    .limit(MAX_GROUPS)
)


class RecentUse(NamedTuple):
    """Of one key and base model in a minute, without the lines of batches."""

    project_id: str
    key_id: str
    base_model: str
    minute: int
    requests: int
    tokens: int


class UsageGroup(StrEnum):
    """What sums are split by; the values are OpenAI's."""

    PROJECT = "project_id"
    KEY = "api_key_id"
    MODEL = "model"


_COLUMNS = {
    UsageGroup.PROJECT: usage.c.project_id,
    UsageGroup.KEY: usage.c.key_id,
    UsageGroup.MODEL: usage.c.model,
}


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Of the buckets of `width_s` from `start` (a multiple of it) up to `end`."""

    start: int
    end: int
    width_s: int
    group_by: frozenset[UsageGroup]
    project_ids: Sequence[str] = ()
    key_ids: Sequence[str] = ()
    models: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class UsageSum:
    """`project_id`, `key_id` and `model` are None where the sum is not split by them."""

    start: int
    """Of the bucket."""
    project_id: str | None
    key_id: str | None
    model: str | None
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    embedding_requests: int
    embedding_tokens: int
    batch_requests: int
    batch_tokens: int


class UsageLedger:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, entries: Sequence[Usage]) -> None:
        """In one transaction."""
        async with self._database.write() as connection:
            for entry in entries:
                amounts = {name: getattr(entry, name) for name in _AMOUNTS}
                place = {
                    "project_id": entry.project_id,
                    "key_id": entry.key_id,
                    "model": entry.model,
                    "minute": entry.minute,
                }
                added = await connection.execute(
                    update(usage)
                    .where(*(usage.c[name] == value for name, value in place.items()))
                    .values({usage.c[name]: usage.c[name] + n for name, n in amounts.items()})
                )
                if added.rowcount == 0:
                    await connection.execute(usage.insert().values(**place, **amounts))

    async def recent(self) -> Sequence[RecentUse]:
        """Of this minute and the one before it, the most requests first."""
        rows = await self._database.look_up(_RECENT, since=int(time.time()) - _RECENT_S)
        return [
            RecentUse(
                row.project_id,
                row.key_id,
                row.base,
                row.minute,
                int(row.sum_requests),
                int(row.sum_tokens),
            )
            for row in rows
        ]

    async def sums(self, wanted: UsageQuery) -> tuple[Sequence[UsageSum], int]:
        """Ordered by bucket, and where they end: at `wanted.end`, or earlier at the start of a
        bucket when there are too many. Raises TooManyGroupsError if one bucket has too many."""
        width = literal_column(str(wanted.width_s))
        start = (usage.c.minute - usage.c.minute % width).label("start")
        groups = [_COLUMNS[group] for group in UsageGroup if group in wanted.group_by]
        query = (
            select(start, *groups, *(func.sum(usage.c[name]).label(name) for name in _AMOUNTS))
            .where(usage.c.minute >= wanted.start, usage.c.minute < wanted.end, *_filters(wanted))
            .group_by(start, *groups)
            .order_by(start, *groups)
            .limit(MAX_GROUPS + 1)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        end = wanted.end
        if len(rows) > MAX_GROUPS:
            end = rows[-1].start
            rows = [row for row in rows if row.start < end]
            if not rows:
                raise TooManyGroupsError
        return [_sum_of(row, wanted.group_by) for row in rows], end


class TooManyGroupsError(Exception):
    """One bucket has more than `MAX_GROUPS`."""


def _filters(wanted: UsageQuery) -> list[ColumnElement[bool]]:
    return [
        column.in_(values)
        for column, values in (
            (usage.c.project_id, wanted.project_ids),
            (usage.c.key_id, wanted.key_ids),
            (usage.c.model, wanted.models),
        )
        if values
    ]


def _sum_of(row: Any, group_by: frozenset[UsageGroup]) -> UsageSum:
    return UsageSum(
        row.start,
        row.project_id if UsageGroup.PROJECT in group_by else None,
        row.key_id if UsageGroup.KEY in group_by else None,
        row.model if UsageGroup.MODEL in group_by else None,
        *(int(getattr(row, name)) for name in _AMOUNTS),
    )
