"""Cursor pages over a table with `num` and `id` columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, Table, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection


class UnknownCursorError(LookupError):
    """`after` names nothing in the list asked for."""

    def __init__(self, after: str) -> None:
        super().__init__(f"no such cursor: {after}")
        self.after = after


async def fetch_page(
    connection: AsyncConnection,
    table: Table,
    scope: Sequence[ColumnElement[bool]],
    filters: Sequence[ColumnElement[bool]] = (),
    *,
    after: str | None,
    limit: int,
    ascending: bool = False,
) -> tuple[Sequence[Row[Any]], bool]:
    """At most `limit` rows beyond `after`, and whether more follow. The cursor must be in `scope`,
    not necessarily pass `filters`: it may have changed since it was listed."""
    query = select(table).where(*scope, *filters)
    if after is not None:
        cursor = await connection.scalar(select(table.c.num).where(*scope, table.c.id == after))
        if cursor is None:
            raise UnknownCursorError(after)
        query = query.where(table.c.num > cursor if ascending else table.c.num < cursor)
    query = query.order_by(table.c.num if ascending else table.c.num.desc()).limit(limit + 1)
    rows = (await connection.execute(query)).all()
    return rows[:limit], len(rows) > limit


async def fetch_page_by_age(
    connection: AsyncConnection,
    query: Select[Any],
    table: Table,
    *,
    after: str | None,
    limit: int,
    ascending: bool = True,
) -> tuple[Sequence[Row[Any]], bool]:
    """The same for a table without `num`, ordered by `created_at` and `id`. The cursor may be any
    row of the table."""
    place = tuple_(table.c.created_at, table.c.id)
    if after is not None:
        cursor = select(table.c.created_at).where(table.c.id == after)
        created_at = await connection.scalar(cursor)
        if created_at is None:
            raise UnknownCursorError(after)
        beyond = tuple_(literal(created_at), literal(after))
        query = query.where(place > beyond if ascending else place < beyond)
    columns = (table.c.created_at, table.c.id)
    query = query.order_by(*(column if ascending else column.desc() for column in columns))
    rows = (await connection.execute(query.limit(limit + 1))).all()
    return rows[:limit], len(rows) > limit
