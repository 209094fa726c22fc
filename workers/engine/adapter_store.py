"""Adapters that came over the socket: for a worker on a host that does not see the service's files.

A client names an adapter by a path on its own host, which is never looked at here. The client is
asked for the files, which are kept under the adapter's identity (name, uid and path; never reused
for other weights), written beside and renamed. So they outlive the worker, and an adapter is sent
once. Two requests for one adapter wait for the same transfer; when its sender goes away, the next
in line asks its own client.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import shutil
from collections import defaultdict
from pathlib import Path
from secrets import token_hex
from typing import Protocol

import msgspec

from workers.contract.adapter_layout import ADAPTER_FILES
from workers.contract.messages import AdapterMissing, AdapterPart, AdapterWanted, Event, FailureKind
from workers.contract.parts import AdapterRef
from workers.engine.backend import RefusedError

PART_TIMEOUT_S = 30.0
MAX_STORED = 256
"""Directories kept; beyond, the one that was not taken up for longest goes, and is asked for again
when it is needed."""


class Sender(Protocol):
    def post(self, event: Event) -> None: ...


Parts = asyncio.Queue[AdapterPart | AdapterMissing]


class AdapterStore:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._found: dict[AdapterRef, AdapterRef] = {}
        """Where the adapters are that this process was asked for."""
        self._locks: defaultdict[AdapterRef, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._arriving: dict[tuple[Sender, int], Parts] = {}
        self._numbers = itertools.count(1)

    async def at_hand(self, sender: Sender, adapter: AdapterRef) -> AdapterRef:
        """The adapter with a path on this host. Raises RefusedError."""
        found = self._found.get(adapter)
        if found is None:
            async with self._locks[adapter]:
                found = self._found.get(adapter) or await self._find(sender, adapter)
                self._found[adapter] = found
            self._locks.pop(adapter, None)
        return found

    def receive(self, sender: Sender, part: AdapterPart | AdapterMissing) -> None:
        """A part that nobody waits for any more is dropped."""
        parts = self._arriving.get((sender, part.id))
        if parts is not None:
            parts.put_nowait(part)

    async def forget(self, name: str) -> None:
        """Removes what is stored of an adapter that no engine holds any more."""
        for adapter in [a for a in self._found if a.name == name]:
            del self._found[adapter]
        for folder in self._root.glob(f"{_digest(name)}-*"):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _find(self, sender: Sender, adapter: AdapterRef) -> AdapterRef:
        folder = self._root / f"{_digest(adapter.name)}-{_digest(f'{adapter.uid}:{adapter.path}')}"
        if folder.is_dir():
            os.utime(folder)
        else:
            await self._fetch(sender, adapter, folder)
            await asyncio.to_thread(self._remove_surplus)
        return msgspec.structs.replace(adapter, path=str(folder))

    async def _fetch(self, sender: Sender, adapter: AdapterRef, folder: Path) -> None:
        number = next(self._numbers)
        parts = self._arriving[sender, number] = Parts()
        beside = self._root / f".{token_hex(8)}"
        try:
            beside.mkdir(parents=True)
            sender.post(AdapterWanted(number, adapter.name))
            is_last = False
            while not is_last:
                part = await self._next(parts, adapter)
                await asyncio.to_thread(_append, beside / part.file, part.data)
                is_last = part.last
            await asyncio.to_thread(_settle, beside, folder)
        finally:
            del self._arriving[sender, number]
            shutil.rmtree(beside, ignore_errors=True)

    async def _next(self, parts: Parts, adapter: AdapterRef) -> AdapterPart:
        try:
            async with asyncio.timeout(PART_TIMEOUT_S):
                part = await parts.get()
        except TimeoutError:
            message = f"The files of adapter {adapter.name!r} did not arrive at its engine."
            raise RefusedError(FailureKind.OVERLOADED, message, "model") from None
        if isinstance(part, AdapterMissing) or part.file not in ADAPTER_FILES:
            message = f"The files of adapter {adapter.name!r} cannot be had."
            raise RefusedError(FailureKind.ADAPTER_NOT_FOUND, message, "model")
        return part

    def _remove_surplus(self) -> None:
        folders = [folder for folder in self._root.iterdir() if not folder.name.startswith(".")]
        folders.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in folders[MAX_STORED:]:
            self._found = {a: f for a, f in self._found.items() if f.path != str(folder)}
            shutil.rmtree(folder, ignore_errors=True)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _append(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.write(data)


def _settle(beside: Path, folder: Path) -> None:
    for path in [*beside.rglob("*"), beside]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    beside.rename(folder)
