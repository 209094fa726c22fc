"""`tuneyard webhooks`: what became of telling webhooks of events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from server.cli.listing import minute, show
from server.cli.options import ConfigPath, load
from server.cli.store import opened_store
from server.config import Config
from server.store.webhooks import Delivery, DeliveryState

app = typer.Typer(name="webhooks", no_args_is_help=True, help="What webhooks were told of.")


@app.command("list")
def list_deliveries(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, the newest first.")] = 20,
    config: ConfigPath = None,
) -> None:
    """Show the newest deliveries, with the last error of each. Those of 30 days are kept.

    Example: tuneyard webhooks list --limit 50
    """
    heads = ("event", "type", "object", "to", "state", "attempts", "next or error", "since")
    show(heads, [_row(delivery) for delivery in asyncio.run(_newest(load(config), limit))])


async def _newest(config: Config, limit: int) -> Sequence[Delivery]:
    async with opened_store(config) as store:
        return await store.webhooks.newest(limit)


def _row(delivery: Delivery) -> tuple[str, ...]:
    told = delivery.error or ""
    if delivery.state is DeliveryState.PENDING and delivery.num_attempts:
        told = f"{told}; next {minute(int(delivery.next_at))}"
    return (
        delivery.event_id,
        delivery.kind,
        delivery.object_id,
        delivery.url,
        delivery.state.value,
        str(delivery.num_attempts),
        told,
        minute(delivery.created_at),
    )
