"""Blobs whose reader gives up."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from server.blobs import LocalBlobs
from tests.gateway.conftest import DEADLINE_S


def num_open(path: Path) -> int:
    """How often this process has the file open."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found += os.readlink(link) == str(path)
    return found


async def test_a_file_that_opens_after_its_reader_has_gone_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "file-slow"
    os.mkfifo(path)  # opens once somebody writes
    chunks = LocalBlobs(tmp_path).read(path.name)
    reading = asyncio.ensure_future(anext(chunks))
    await asyncio.sleep(0.05)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await chunks.aclose()
    with await asyncio.to_thread(path.open, "wb"):
        assert num_open(path) >= 1
    async with asyncio.timeout(DEADLINE_S):
        while num_open(path):
            await asyncio.sleep(0.01)
