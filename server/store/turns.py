"""Whose turn it is: projects that want the same thing get it one after the other.

A turn is a number, and each one taken is larger than all before it. A project that never took one
goes first.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.counters import raise_counter
from server.store.tables import counters


class Turns(StrEnum):
    """What there are turns of."""

    VALIDATION = "validation"
    TRAINING = "training"


def last_turn(turns: Turns, project_id: ColumnElement[str]) -> ColumnElement[int]:
    """Of a query's projects; 0 for one that has had none."""
    taken = select(counters.c.value).where(counters.c.name == _prefix(turns) + project_id)
    return func.coalesce(taken.scalar_subquery(), 0)


async def take_turn(connection: AsyncConnection, turns: Turns, project_id: str) -> None:
    """Puts the project behind all others, in the transaction that gives it something."""
    turn = await _raise(connection, f"turns.{turns}")
    await _set(connection, f"{_prefix(turns)}{project_id}", turn)


async def _raise(connection: AsyncConnection, name: str) -> int:
    raised = await raise_counter(connection, name)
    if raised is None:
        raised = 1
        await connection.execute(counters.insert().values(name=name, value=raised))
    return raised


async def _set(connection: AsyncConnection, name: str, value: int) -> None:
    changed = await connection.execute(
        update(counters).where(counters.c.name == name).values(value=value)
    )
    if changed.rowcount == 0:
        await connection.execute(counters.insert().values(name=name, value=value))


def _prefix(turns: Turns) -> str:
    return f"turns.{turns}."
