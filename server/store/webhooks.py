"""Events that webhooks are told of, and what became of telling each.

An event's row is written by the transaction that ends the object. It is spread once: each receiver
that is configured then and wants it gets a delivery. A delivery is claimed before it is sent, so of
several supervisors one sends it; if that one dies, the claim runs out and it is sent again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, ScalarSelect, Select, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.database import Database
from server.store.identifiers import random_id
from server.store.tables import webhook_deliveries, webhook_events

KEPT_S = 30 * 24 * 3600
_MAX_SPREAD = 100
"""Events at a time."""


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Receiver:
    """`projects` None is all."""

    url: str
    events: frozenset[str]
    projects: frozenset[str] | None

    def wants(self, kind: str, project_id: str) -> bool:
        return kind in self.events and (self.projects is None or project_id in self.projects)


@dataclass(frozen=True, slots=True)
class Delivery:
    """`num_attempts` that were made; `error` is of the last of them."""

    num: int
    event_id: str
    kind: str
    project_id: str
    object_id: str
    created_at: int
    url: str
    state: DeliveryState
    num_attempts: int
    next_at: float
    error: str | None


class Webhooks:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def spread(self, receivers: Sequence[Receiver]) -> None:
        """Makes the deliveries of all events that have not been spread."""
        unspread = (
            select(webhook_events)
            .where(webhook_events.c.spread_at.is_(None))
            .order_by(webhook_events.c.num)
            .limit(_MAX_SPREAD)
        )
        async with self._database.read() as connection:
            if (await connection.execute(unspread.limit(1))).first() is None:
                return
        async with self._database.write() as connection:
            now = time.time()
            for event in (await connection.execute(unspread)).all():
                is_first = await connection.execute(
                    update(webhook_events)
                    .where(webhook_events.c.num == event.num, webhook_events.c.spread_at.is_(None))
                    .values(spread_at=int(now))
                )
                wanted = [r.url for r in receivers if r.wants(event.type, event.project_id)]
                if is_first.rowcount and wanted:
                    await connection.execute(
                        webhook_deliveries.insert(),
                        [_new_delivery(event.num, url, now) for url in dict.fromkeys(wanted)],
                    )

    async def claim(self, url: str, lease_s: float, limit: int) -> Sequence[Delivery]:
        """What is to be sent there now, the oldest first; nobody else gets it within the lease."""
        now = time.time()
        due = (
            _deliveries()
            .where(
                webhook_deliveries.c.url == url,
                webhook_deliveries.c.state == DeliveryState.PENDING.value,
                webhook_deliveries.c.next_at <= now,
            )
            .order_by(webhook_deliveries.c.num)
            .limit(limit)
        )
        async with self._database.read() as connection:
            if (await connection.execute(due)).first() is None:
                return ()
        claimed: list[Delivery] = []
        async with self._database.write() as connection:
            for row in (await connection.execute(due)).all():
                taken = await connection.execute(
                    update(webhook_deliveries)
                    .where(
                        webhook_deliveries.c.num == row.num,
                        webhook_deliveries.c.next_at == row.next_at,
                    )
                    .values(next_at=now + lease_s)
                )
                if taken.rowcount:
                    claimed.append(_delivery_of(row))
        return claimed

    async def record(
        self, delivery: Delivery, state: DeliveryState, next_at: float, error: str | None
    ) -> None:
        """What came of one more attempt."""
        async with self._database.write(makes_room=True) as connection:
            await connection.execute(
                update(webhook_deliveries)
                .where(webhook_deliveries.c.num == delivery.num)
                .values(
                    state=state.value,
                    attempts=webhook_deliveries.c.attempts + 1,
                    next_at=next_at,
                    error=error,
                )
            )

    async def newest(self, limit: int) -> Sequence[Delivery]:
        query = _deliveries().order_by(webhook_deliveries.c.num.desc()).limit(limit)
        async with self._database.read() as connection:
            return [_delivery_of(row) for row in await connection.execute(query)]

    async def forget_old(self) -> None:
        old = select(webhook_events.c.num).where(webhook_events.c.created_at < time.time() - KEPT_S)
        async with self._database.write(makes_room=True) as connection:
            await connection.execute(
                delete(webhook_deliveries).where(webhook_deliveries.c.event_num.in_(old))
            )
            await connection.execute(delete(webhook_events).where(webhook_events.c.num.in_(old)))


async def insert_event(
    connection: AsyncConnection,
    kind: str,
    project_id: str | ScalarSelect[str],
    object_id: str,
) -> None:
    """Within the transaction that ends the object."""
    await connection.execute(
        webhook_events.insert().values(
            id=random_id("evt_"),
            project_id=project_id,
            type=kind,
            object_id=object_id,
            created_at=int(time.time()),
        )
    )


def _new_delivery(event_num: int, url: str, now: float) -> dict[str, Any]:
    return {
        "event_num": event_num,
        "url": url,
        "state": DeliveryState.PENDING.value,
        "attempts": 0,
        "next_at": now,
    }


def _deliveries() -> Select[Any]:
    return select(
        webhook_deliveries,
        webhook_events.c.id.label("event_id"),
        webhook_events.c.type,
        webhook_events.c.project_id,
        webhook_events.c.object_id,
        webhook_events.c.created_at,
    ).join(webhook_events, webhook_events.c.num == webhook_deliveries.c.event_num)


def _delivery_of(row: Row[Any]) -> Delivery:
    return Delivery(
        num=row.num,
        event_id=row.event_id,
        kind=row.type,
        project_id=row.project_id,
        object_id=row.object_id,
        created_at=row.created_at,
        url=row.url,
        state=DeliveryState(row.state),
        num_attempts=row.attempts,
        next_at=row.next_at,
        error=row.error,
    )
