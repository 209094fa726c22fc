"""Removes what nobody can reach any more: bytes of deleted files, weights of deleted models, rows
of dead supervisors, old idempotency keys, expired responses and completions."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from server.blobs import Blobs
from server.config import Config
from server.store import Store
from server.supervisor.patience import Patience

INTERVAL_S = 30.0
ABANDONED_AFTER_S = 24 * 3600.0


class Janitor:
    def __init__(
        self,
        supervisor_id: str,
        config: Config,
        store: Store,
        blobs: Blobs,
        patience: Patience,
    ) -> None:
        self._supervisor_id = supervisor_id
        self._config = config
        self._store = store
        self._blobs = blobs
        self._patience = patience

    async def run(self) -> None:
        """Until cancelled. What fails is tried again in the next round."""
        while True:
            await self._store.keep_reserve()
            await asyncio.sleep(INTERVAL_S)
            await self.tidy()

    async def tidy(self) -> None:
        """What frees most comes first, and whatever becomes of one part, the others follow."""
        for part in (self._remove_files, self._remove_models, self._forget_rows):
            await self._patience.attempt(part)

    async def _remove_files(self) -> None:
        while files := await self._store.files.list_reclaimable():
            for file in files:
                await self._blobs.delete(file.blob)
                await self._store.files.set_reclaimed(file.id)
        while parts := await self._store.uploads.list_reclaimable_parts():
            for part_id in parts:
                await self._blobs.delete(part_id)
            await self._store.uploads.forget_parts(parts)
        await self._blobs.remove_abandoned(ABANDONED_AFTER_S)

    async def _remove_models(self) -> None:
        in_use = await self._store.progress.list_open_paths()
        for path in await self._store.models.list_removable_paths() - in_use:
            await self._remove_weights(Path(path))

    async def _forget_rows(self) -> None:
        await self._store.engines.remove_silent(self._supervisor_id)
        await self._store.replays.forget_old()
        await self._store.webhooks.forget_old()
        await self._store.responses.remove_expired()
        await self._store.completions.remove_expired()

    async def _remove_weights(self, path: Path) -> None:
        """Only what is ours to remove: a directory right under the adapters'."""
        if path.parent == self._config.adapters_dir:
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
        await self._store.models.forget_path(str(path))
