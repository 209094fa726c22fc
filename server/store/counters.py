"""Numbers that only rise."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.tables import counters


async def raise_counter(connection: AsyncConnection, name: str) -> int | None:
    """Its next value, within a writing transaction; None if there is no such counter."""
    return await connection.scalar(
        update(counters)
        .where(counters.c.name == name)
        .values(value=counters.c.value + 1)
        .returning(counters.c.value)
    )
