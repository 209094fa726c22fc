"""Pooled requests (embeddings, scores) on the way to and on the thread that runs the model.

A request is cut into batches of inputs of like length, so little is padding. A generating engine
runs one batch between two of its steps: a large request slows running streams, but stops none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.contract.messages import FailureKind
from workers.contract.parts import AdapterRef
from workers.engine.backend import RefusedError
from workers.engine.hf.lora.places import AdapterPlaces
from workers.engine.hf.lora.plan import plan_one_adapter
from workers.engine.hf.lora.weights import AdapterWeights
from workers.engine.hf.memory import is_out_of_memory
from workers.engine.hf.model import LoadedModel
from workers.engine.hf.pooling import Pooling, PoolingKind, pool

BATCH_TOKENS = {"cpu": 1024, "cuda": 8192}
"""Of one batch, padding included."""


@dataclass(slots=True)
class PooledBatch:
    prompts: list[list[int]]
    adapter: AdapterWeights | None = None
    done: Future[Tensor] = field(default_factory=lambda: Future[Tensor]())


def plan_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices, grouped so that a batch padded to its longest has at most `max_tokens` (or is one
    input alone)."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        batch = batches[-1] if batches else None
        if batch is not None and lengths[batch[0]] * (len(batch) + 1) <= max_tokens:
            batch.append(index)
        else:
            batches.append([index])
    return batches


def pad(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, list[int]]:
    """Ids [B, T], padded on the right with 0, and the true lengths."""
    lengths = [len(prompt) for prompt in prompts]
    width = max(lengths)
    rows = [[*prompt, *[0] * (width - len(prompt))] for prompt in prompts]
    return torch.tensor(rows, device=device), lengths


class PoolQueue:
    """Batches waiting for a generating engine's thread, which alone calls this."""

    def __init__(
        self, loaded: LoadedModel, places: AdapterPlaces | None, kind: PoolingKind
    ) -> None:
        self._loaded = loaded
        self._places = places
        self._kind = kind
        self._waiting: deque[PooledBatch] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, batch: PooledBatch) -> None:
        self._waiting.append(batch)

    def wants(self, adapter_uid: int) -> bool:
        return any(b.adapter is not None and b.adapter.uid == adapter_uid for b in self._waiting)

    def run_one(self) -> None:
        """The first batch whose adapter has a place; none if all places are in use."""
        for batch in self._waiting:
            if self._acquire(batch):
                break
        else:
            return
        self._waiting.remove(batch)
        try:
            if batch.done.set_running_or_notify_cancel():
                settle(batch.done, lambda: self._compute(batch))
        finally:
            if batch.adapter is not None and self._places is not None:
                self._places.release(batch.adapter)

    def _acquire(self, batch: PooledBatch) -> bool:
        if batch.adapter is None or self._places is None:
            return True
        return self._places.acquire(batch.adapter)

    def _compute(self, batch: PooledBatch) -> Tensor:
        """A batched model is causal and padding is on the right, so no token sees any. In
        compatibility mode there is no padding."""
        loaded = self._loaded
        if self._places is not None:
            plan_one_adapter(loaded.adapter_step, self._places.columns(batch.adapter))
        if loaded.compatibility is not None:
            return torch.cat([self._pool([prompt], {}) for prompt in batch.prompts])
        loaded.attention.layout = None
        longest = max(map(len, batch.prompts))
        positions = torch.arange(longest, device=loaded.device)
        return self._pool(batch.prompts, {"position_ids": positions.expand(len(batch.prompts), -1)})

    def _pool(self, prompts: list[list[int]], options: dict[str, Tensor]) -> Tensor:
        ids_BT, lengths = pad(prompts, self._loaded.device)
        model = self._loaded.model.base_model
        hidden = model(input_ids=ids_BT, use_cache=False, **options).last_hidden_state
        return pool(hidden, lengths, self._kind).cpu()


def settle(done: Future[Tensor], compute: Callable[[], Tensor]) -> None:
    """Runs `compute` and gives `done` what came of it."""
    try:
        done.set_result(compute())
    except Exception as error:
        if is_out_of_memory(error):
            message = "The engine ran out of memory."
            done.set_exception(RefusedError(FailureKind.OUT_OF_MEMORY, message))
        else:
            done.set_exception(error)


class HfPooling:
    """The `PoolingHost` of both HF backends; `submit` brings a batch to the model's thread."""

    def __init__(
        self,
        submit: Callable[[PooledBatch], None],
        batch_tokens: int,
        *,
        pooling: Pooling | None,
        hidden_size: int,
        frame: tuple[list[int], list[int]],
        fetch: Callable[[AdapterRef], Awaitable[AdapterWeights]] | None = None,
    ) -> None:
        self._submit = submit
        self._batch_tokens = batch_tokens
        self._pooling = pooling
        self._hidden_size = hidden_size
        self._frame = frame
        self._fetch = fetch

    def frame(self, prompt_ids: list[int]) -> list[int]:
        first, last = self._frame
        return [*first, *prompt_ids, *last]

    async def embed(
        self, prompts: list[list[int]], dimensions: int | None, adapter: AdapterRef | None
    ) -> list[bytes]:
        assert self._pooling is not None, "declared only with a pooling"
        self._pooling.check_dimensions(dimensions, self._hidden_size)
        weights = None
        if adapter is not None:
            assert self._fetch is not None, "LoRA is declared only where adapters are served"
            weights = await self._fetch(adapter)
        return self._pooling.finish(await self._run(prompts, weights), dimensions)

    async def score(self, prompts: list[list[int]]) -> list[float]:
        return (await self._run(prompts, None))[:, 0].float().tolist()

    async def _run(self, prompts: list[list[int]], adapter: AdapterWeights | None) -> Tensor:
        """Rows in the order of `prompts`. When cancelled, what has not begun is dropped."""
        plan = plan_batches([len(prompt) for prompt in prompts], self._batch_tokens)
        batches = [PooledBatch([prompts[i] for i in indices], adapter) for indices in plan]
        for batch in batches:
            self._submit(batch)
        results = await asyncio.gather(*(asyncio.wrap_future(batch.done) for batch in batches))
        order = torch.tensor([index for indices in plan for index in indices])
        return torch.cat(results)[order.argsort()]
