"""Rows of responses that are kept, each with its own input and linked to the one before it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, delete, literal, select

from server.store.database import Database
from server.store.tables import responses

UNFINISHED = frozenset({"queued", "in_progress"})
"""What a background response is until it has ended."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """`body` is the response object and `input` the list of its input items, as JSON."""

    id: str
    project_id: str
    created_at: int
    expires_at: int
    previous_id: str | None
    model: str
    status: str
    body: str
    input: str
    depth: int
    """How many responses stand before it."""
    context_bytes: int
    """Of its body and input, and of those of all before it."""


_PROJECT, _ID, _NOW = bindparam("project_id"), bindparam("id"), bindparam("now")
_THERE = (responses.c.project_id == _PROJECT, responses.c.expires_at > _NOW)
_FIND = select(responses).where(responses.c.id == _ID, *_THERE)
_LINKS = (
    select(responses.c.id, responses.c.previous_id, literal(0).label("distance"))
    .where(responses.c.id == _ID, *_THERE)
    .cte("links", recursive=True)
)
_ALL_LINKS = _LINKS.union_all(
    select(responses.c.id, responses.c.previous_id, _LINKS.c.distance + 1)
    .join(_LINKS, responses.c.id == _LINKS.c.previous_id)
    .where(*_THERE)
)
_CHAIN = (
    select(responses)
    .join(_ALL_LINKS, responses.c.id == _ALL_LINKS.c.id)
    .order_by(_ALL_LINKS.c.distance.desc())
)
_ADD = responses.insert()
_REMOVED_AT_ONCE = 200


class Responses:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, kept: Sequence[StoredResponse]) -> None:
        """In one transaction."""
        rows = [
            {name: getattr(response, name) for name in StoredResponse.__slots__}
            for response in kept
        ]
        await self._database.append(_ADD, rows)

    async def find(self, project_id: str, response_id: str) -> StoredResponse | None:
        rows = await self._database.look_up(
            _FIND, project_id=project_id, id=response_id, now=int(time.time())
        )
        return _response_of(rows[0]) if rows else None

    async def chain(self, project_id: str, response_id: str) -> tuple[StoredResponse, ...]:
        """The response and those before it, the first one first. One that is gone ends it: then
        the first has a `previous_id`."""
        rows = await self._database.look_up(
            _CHAIN, project_id=project_id, id=response_id, now=int(time.time())
        )
        return tuple(_response_of(row) for row in rows)

    async def delete(self, project_id: str, response_id: str) -> bool:
        """False if there is none."""
        query = delete(responses).where(
            responses.c.project_id == project_id,
            responses.c.id == response_id,
            responses.c.expires_at > int(time.time()),
        )
        async with self._database.write(makes_room=True) as connection:
            return (await connection.execute(query)).rowcount == 1

    async def remove_expired(self) -> None:
        expired = (
            select(responses.c.id)
            .where(responses.c.expires_at <= int(time.time()))
            .limit(_REMOVED_AT_ONCE)
        )
        query = delete(responses).where(responses.c.id.in_(expired))
        num_removed = _REMOVED_AT_ONCE
        while num_removed == _REMOVED_AT_ONCE:
            async with self._database.write(makes_room=True) as connection:
                num_removed = (await connection.execute(query)).rowcount


def _response_of(row: Any) -> StoredResponse:
    return StoredResponse(**{name: getattr(row, name) for name in StoredResponse.__slots__})
