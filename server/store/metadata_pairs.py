"""Pairs of `metadata` as rows beside their owner's: a JSON path cannot name every key on every
database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Column, ColumnElement, exists
from sqlalchemy.ext.asyncio import AsyncConnection


def carries(
    pairs_owner: Column[Any], owner_id: ColumnElement[str], metadata: Mapping[str, str]
) -> list[ColumnElement[bool]]:
    """That the owner carries each of these pairs. `pairs_owner` is the column of a table of pairs
    that names whose they are."""
    pairs = pairs_owner.table.c
    return [
        exists().where(pairs_owner == owner_id, pairs.key == key, pairs.value == value)
        for key, value in metadata.items()
    ]


async def insert_pairs(
    connection: AsyncConnection,
    pairs_owner: Column[Any],
    owner_id: str,
    metadata: Mapping[str, str] | None,
) -> None:
    rows = [
        {pairs_owner.name: owner_id, "key": key, "value": value}
        for key, value in (metadata or {}).items()
    ]
    if rows:
        await connection.execute(pairs_owner.table.insert(), rows)
