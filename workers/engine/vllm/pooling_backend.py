"""Embeddings and scores through vLLM's pooling runner: an engine of its own, which cannot generate.

vLLM pools (the model's last hidden states, or a classifier's one label); length and dimensions of a
vector are finished here, as for the HF engine, so both give the same numbers. Value heads beside a
causal model are LLaMA-Factory's format and not vLLM's: refused at start.
"""

# vLLM is installed in its own environment, not in the one that type-checks.
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import msgspec

from workers.contract.hello import Capability
from workers.contract.messages import FailureKind, Stats
from workers.contract.model_files import VALUE_HEAD_FILE
from workers.contract.parts import AdapterRef
from workers.engine.backend import (
    Description,
    PoolingHost,
    Receiver,
    RefusedError,
)
from workers.engine.hf.pooling import Pooling, read_pooling
from workers.engine.hf.settings import HfSettings
from workers.engine.hf.task import Task
from workers.engine.pools_only import PoolsOnly
from workers.engine.spec import EngineSpec, SpecError
from workers.engine.text.pretrained import PretrainedVocabulary
from workers.engine.vllm.launch import SHUTDOWN_TIMEOUT_S, start_engine
from workers.engine.vllm.settings import VllmSettings

_TASKS = {Task.EMBED: "embed", Task.SCORE: "classify"}


class VllmPoolingBackend(PoolsOnly):
    def __init__(
        self,
        spec: EngineSpec,
        settings: VllmSettings,
        task: Task,
        vocabulary: PretrainedVocabulary,
    ) -> None:
        """Raises SpecError."""
        # LoRA would take memory for requests that are never made.
        self._spec = msgspec.structs.replace(spec, max_loras=0)
        self._settings = settings
        self._task = task
        self._vocabulary = vocabulary
        self._pooling = _pooling(spec, settings, task)
        self._ids = itertools.count(1)
        self._engine: Any = None
        self._num_waiting = self._num_tokens = 0

    async def start(self, receiver: Receiver) -> Description:
        self._receiver = receiver
        self._engine, version = await asyncio.to_thread(
            start_engine, self._spec, self._settings, self._arguments()
        )
        config = self._engine.model_config
        self._hidden_size = config.get_hidden_size()
        capability = Capability.EMBED if self._task is Task.EMBED else Capability.SCORE
        return Description(
            engine=f"vllm/{version}",
            max_model_len=config.max_model_len,
            capabilities=frozenset({capability}),
        )

    def _arguments(self) -> dict[str, Any]:
        pooler: dict[str, Any] = {"use_activation": False}
        arguments: dict[str, Any] = {
            "runner": "pooling",
            "pooler_config": pooler,
            # A mean wants the states of all tokens, and a cached prefix has none.
            "enable_prefix_caching": False,
        }
        if self._pooling is not None:
            pooler["seq_pooling_type"] = self._pooling.kind.upper()
            arguments["convert"] = "embed"
        return arguments

    @property
    def pooling(self) -> PoolingHost:
        return self

    def frame(self, prompt_ids: list[int]) -> list[int]:
        if self._task is Task.SCORE:
            return prompt_ids
        first, last = self._vocabulary.frame
        return [*first, *prompt_ids, *last]

    async def embed(
        self, prompts: list[list[int]], dimensions: int | None, adapter: AdapterRef | None
    ) -> list[bytes]:
        import torch

        assert self._pooling is not None, "declared only with a pooling"
        self._pooling.check_dimensions(dimensions, self._hidden_size)
        return self._pooling.finish(torch.stack(await self._run(prompts)), dimensions)

    async def score(self, prompts: list[list[int]]) -> list[float]:
        return [float(row) for row in await self._run(prompts)]

    async def _run(self, prompts: list[list[int]]) -> list[Any]:
        """The pooled row of each prompt; one that fails fails all."""
        self._num_waiting += len(prompts)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._pool(prompt)) for prompt in prompts]
        except BaseExceptionGroup as errors:
            raise self._refusal(errors.exceptions[0]) from errors
        finally:
            self._num_waiting -= len(prompts)
        self._num_tokens += sum(map(len, prompts))
        return [task.result() for task in tasks]

    async def _pool(self, prompt: list[int]) -> Any:
        from vllm.pooling_params import PoolingParams

        params = PoolingParams(task=_TASKS[self._task], use_activation=False)
        tokens = {"type": "token", "prompt_token_ids": prompt}
        row: Any = None
        async for output in self._engine.encode(tokens, params, str(next(self._ids))):
            row = output.outputs.data
        return row.float().cpu()

    def _refusal(self, error: BaseException) -> BaseException:
        from vllm.v1.engine.exceptions import EngineDeadError

        if isinstance(error, EngineDeadError):
            self._receiver.died(f"EngineDeadError: {error}")
            return RefusedError(FailureKind.ENGINE_DEAD, "The engine stopped unexpectedly.")
        return error

    def stats(self) -> Stats:
        running = min(self._num_waiting, self._spec.max_num_seqs)
        return Stats(running, self._num_waiting - running, 0.0, prompt_tokens=self._num_tokens)

    async def close(self) -> None:
        if self._engine is not None:
            await asyncio.to_thread(self._engine.shutdown, SHUTDOWN_TIMEOUT_S)


def _pooling(spec: EngineSpec, settings: VllmSettings, task: Task) -> Pooling | None:
    """None for a model that scores. Raises SpecError."""
    folder = Path(spec.model_path or "")
    if task is Task.SCORE:
        if (folder / VALUE_HEAD_FILE).is_file():
            raise SpecError(f"vLLM does not serve {VALUE_HEAD_FILE}; use engine: hf")
        config = json.loads((folder / "config.json").read_bytes())
        num_labels = config.get("num_labels", len(config.get("id2label") or {}) or 2)
        if num_labels != 1:
            raise SpecError(f"a model that scores has one label, this one has {num_labels}")
        return None
    declared = HfSettings(
        pooling=settings.pooling,
        normalize=settings.normalize,
        is_matryoshka=settings.is_matryoshka,
        matryoshka_dimensions=settings.matryoshka_dimensions,
    )
    pooling = read_pooling(folder, declared)
    if pooling is None:
        raise SpecError(
            "the model declares no pooling: name it in settings (pooling: mean, last or cls)"
        )
    return pooling
