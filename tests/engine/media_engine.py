"""An HF engine in the tests' own process, asked with prompts that hold media."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workers.contract.parts import Media, PromptPart, Sampling
from workers.engine.backend import Ended, Output, RefusedError, Work
from workers.engine.hf.backend import create
from workers.engine.media import expand_media
from workers.engine.spec import EngineSpec


class MediaEngine:
    """`close` must be called."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        spec = EngineSpec(
            model_id="test-model",
            model_path=str(folder),
            backend="hf",
            listen="unix:/nowhere",
            dtype="float32",
            device="cpu",
            max_num_seqs=4,
            settings={"prefill_tokens_per_step": 24, **settings},
        )
        self._backend, self._vocabulary = create(spec)
        self._keys = itertools.count(1)
        self.num_cached = 0
        self._ids: dict[int, list[int]] = {}
        self._ends: dict[int, asyncio.Future[Ended]] = {}

    async def start(self) -> None:
        self.description = await self._backend.start(self)

    async def answer(self, prompt: Sequence[PromptPart | Media], num_tokens: int) -> list[int]:
        """Raises RefusedError."""
        parts, media = await expand_media(self.description.media, prompt)
        ids = self._vocabulary.encode(parts)
        key = next(self._keys)
        self._ids[key] = []
        ends = self._ends[key] = asyncio.get_running_loop().create_future()
        work = Work(key, ids, Sampling(temperature=0), num_tokens, frozenset(), media=media)
        await self._backend.submit(work)
        ended = await asyncio.wait_for(ends, 60)
        self.num_cached += ended.cached_tokens
        return self._ids[key]

    async def close(self) -> None:
        await self._backend.close()

    # --- Receiver ---------------------------------------------------------------------------------

    def deliver(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            self._ids[output.key] += output.token_ids
            if isinstance(output.ended, RefusedError):
                self._ends[output.key].set_exception(output.ended)
            elif output.ended is not None:
                self._ends[output.key].set_result(output.ended)

    def adapters_changed(self) -> None:
        pass

    def died(self, reason: str) -> None:
        for end in self._ends.values():
            if not end.done():
                end.set_exception(RuntimeError(reason))
