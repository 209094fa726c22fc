"""Removes what nobody can reach any more: bytes of deleted files, weights of deleted models, rows
of dead supervisors, old idempotency keys."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

from server.blobs import Blobs
from server.config import Config
from server.store import Store

logger = logging.getLogger(__name__)

INTERVAL_S = 30.0
ABANDONED_AFTER_S = 24 * 3600.0


class Janitor:
    def __init__(self, supervisor_id: str, config: Config, store: Store, blobs: Blobs) -> None:
        self._supervisor_id = supervisor_id
        self._config = config
        self._store = store
        self._blobs = blobs

    async def run(self) -> None:
        """Until cancelled. A round that fails is tried again."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.tidy()
            except Exception:
                logger.exception("tidying failed")

    async def tidy(self) -> None:
        await self._store.engines.remove_silent(self._supervisor_id)
        await self._store.replays.forget_old()
        for file in await self._store.files.list_reclaimable():
            await self._blobs.delete(file.blob)
            await self._store.files.set_reclaimed(file.id)
        parts = await self._store.uploads.list_reclaimable_parts()
        for part_id in parts:
            await self._blobs.delete(part_id)
        await self._store.uploads.forget_parts(parts)
        await self._blobs.remove_abandoned(ABANDONED_AFTER_S)
        in_use = await self._store.progress.list_open_paths()
        for path in await self._store.models.list_removable_paths() - in_use:
            await self._remove_weights(Path(path))

    async def _remove_weights(self, path: Path) -> None:
        """Only what is ours to remove: a directory right under the adapters'."""
        if path.parent == self._config.adapters_dir:
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
        await self._store.models.forget_path(str(path))
