"""Tells webhooks how jobs ended, from the store's rows, for three days if they do not answer.

Each receiver has a loop of its own, so that a slow one keeps no other waiting.
"""

from __future__ import annotations

import asyncio
import logging
import time

import httpx

from server.config.webhooks import WebhookEntry
from server.store import Store
from server.store.webhooks import Delivery, DeliveryState, Receiver
from server.supervisor.patience import Patience
from server.supervisor.webhook_sending import TIMEOUT_S, NotDeliveredError, WebhookSender

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
_NUM_AT_ONCE = 8
"""Of one receiver."""
_LEASE_S = 4 * TIMEOUT_S
FIRST_RETRY_S = 5.0
_FACTOR = 4
_LAST_RETRY_S = 6 * 3600.0
GIVE_UP_AFTER_S = 3 * 24 * 3600.0


class WebhookTeller:
    def __init__(self, entries: tuple[WebhookEntry, ...], store: Store, patience: Patience) -> None:
        self._entries = entries
        self._store = store
        self._patience = patience

    async def run(self) -> None:
        """Until cancelled. Events of times without receivers are told to nobody later."""
        # Proxies of the environment would lead past the address check.
        async with (
            httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S) as client,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._patience.repeat(self._spread, INTERVAL_S))
            for entry in self._entries:
                route = _Route(self._store, WebhookSender(entry, client), entry.url)
                group.create_task(self._patience.repeat(route.send_due, INTERVAL_S))

    async def _spread(self) -> None:
        receivers = [
            Receiver(
                entry.url,
                frozenset(event.value for event in entry.events),
                None if entry.projects is None else frozenset(entry.projects),
            )
            for entry in self._entries
        ]
        await self._store.webhooks.spread(receivers)


class _Route:
    """What goes to one receiver."""

    def __init__(self, store: Store, sender: WebhookSender, url: str) -> None:
        self._store = store
        self._sender = sender
        self._url = url

    async def send_due(self) -> None:
        while due := await self._store.webhooks.claim(self._url, _LEASE_S, _NUM_AT_ONCE):
            await asyncio.gather(*map(self._send, due))

    async def _send(self, delivery: Delivery) -> None:
        event = {"event": delivery.event_id, "object": delivery.object_id}
        state, next_at, error = DeliveryState.DELIVERED, delivery.next_at, None
        try:
            await self._sender.send(delivery)
            logger.info("webhook delivered", extra=event)
        except NotDeliveredError as fault:
            error = str(fault)
            state, next_at = after_failure(delivery, time.time())
            told = {**event, "reason": error, "state": state}
            logger.warning("webhook not delivered", extra=told)
        await self._store.webhooks.record(delivery, state, next_at, error)


def after_failure(delivery: Delivery, now: float) -> tuple[DeliveryState, float]:
    """When it is tried again: after 5 s, 20 s, 80 s, ... and every six hours in the end."""
    pause_s = min(FIRST_RETRY_S * _FACTOR ** min(delivery.num_attempts, 10), _LAST_RETRY_S)
    if now + pause_s > delivery.created_at + GIVE_UP_AFTER_S:
        return DeliveryState.GIVEN_UP, now
    return DeliveryState.PENDING, now + pause_s
