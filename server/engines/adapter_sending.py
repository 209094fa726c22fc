"""Sends an adapter's files to a worker on another host, which has asked for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from workers.contract.adapter_layout import adapter_files, missing_file
from workers.contract.messages import AdapterMissing, AdapterPart
from workers.contract.parts import AdapterRef, Message

PART_BYTES = 512 * 1024

Send = Callable[[Message], Awaitable[None]]
"""Waits while the connection is full, so that what is generated meanwhile is not held up."""


async def send_adapter(adapter: AdapterRef, number: int, send: Send) -> None:
    """`number` is the worker's. An adapter whose files are gone is said to be missing."""
    folder = Path(adapter.path)
    if await asyncio.to_thread(missing_file, folder) is not None:
        await send(AdapterMissing(number))
        return
    try:
        names = await asyncio.to_thread(adapter_files, folder)
        for name in names:
            await _send_file(folder / name, name, number, name == names[-1], send)
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
