"""Sends an adapter's files to a worker on another host, which has asked for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from workers.contract.messages import AdapterMissing, AdapterPart
from workers.contract.parts import ADAPTER_FILES, AdapterRef, Message

PART_BYTES = 512 * 1024

Send = Callable[[Message], Awaitable[None]]
"""Waits while the connection is full, so that what is generated meanwhile is not held up."""


async def send_adapter(adapter: AdapterRef, number: int, send: Send) -> None:
    """`number` is the worker's. An adapter whose files are gone is said to be missing."""
    try:
        for name in ADAPTER_FILES:
            is_last = name == ADAPTER_FILES[-1]
            await _send_file(Path(adapter.path) / name, name, number, is_last, send)
    except OSError:
        await send(AdapterMissing(number))


async def _send_file(path: Path, name: str, number: int, is_last: bool, send: Send) -> None:
    """A piece is sent once the next is read, as only then it is known whether it is the last."""
    file = await asyncio.to_thread(path.open, "rb")
    try:
        piece = await asyncio.to_thread(file.read, PART_BYTES)
        while piece is not None:
            following = await asyncio.to_thread(file.read, PART_BYTES) or None
            await send(AdapterPart(number, name, piece, is_last and following is None))
            piece = following
    finally:
        file.close()
