"""vLLM behind our Backend: `AsyncLLM`'s engine process, driven by token ids.

vLLM's own front half (detokeniser, per-request queues and tasks) is left out: requests go through
its input processor, so it validates them, and each engine step's outputs are taken whole from the
engine client and delivered as one batch. That is half the work per token in this process. All of
this is vLLM's internal API, so its version is pinned in `deploy/environments/vllm`.

Covers one engine on one host, with tensor and pipeline parallelism inside it; not data parallelism.
"""

# vLLM is installed in its own environment, not in the one that type-checks.
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workers.contract.hello import Capability
from workers.contract.messages import Stats
from workers.contract.parts import AdapterRef
from workers.engine.backend import (
    AdapterHost,
    Description,
    Output,
    Receiver,
    Work,
)
from workers.engine.grammar_checks import GrammarChecks
from workers.engine.residency import AdapterPool, with_adapters
from workers.engine.spec import EngineSpec, SpecError, read_settings
from workers.engine.text.vocabulary import Vocabulary
from workers.engine.vllm.answers import Job, refusal
from workers.engine.vllm.launch import SHUTDOWN_TIMEOUT_S, start_engine, takes_pictures
from workers.engine.vllm.settings import (
    MAX_LOGPROBS,
    POOLING_SETTINGS,
    VllmSettings,
    adapter_places,
    engine_arguments,
    prepare_environment,
)

if TYPE_CHECKING:
    from workers.engine.text.pretrained import PretrainedVocabulary
    from workers.engine.vllm.pictures import VllmPictures
    from workers.engine.vllm.pooling_backend import VllmPoolingBackend

log = logging.getLogger(__name__)

_CAPABILITIES = frozenset(Capability) - {Capability.EMBED, Capability.SCORE, Capability.LORA}


def create(spec: EngineSpec) -> tuple[VllmBackend | VllmPoolingBackend, Vocabulary]:
    """Raises SpecError."""
    settings = read_settings(spec.settings, VllmSettings)
    engine_arguments(spec, settings, on_cpu=False)
    prepare_environment(spec, settings)
    # These import torch and transformers, which must come after the environment is set.
    from workers.engine.hf.task import Task, choose_task
    from workers.engine.text.pretrained import load_vocabulary
    from workers.engine.vllm.pooling_backend import VllmPoolingBackend

    path = spec.model_path or ""
    embeds = settings.pooling is not None and settings.task is None
    task = Task.EMBED if embeds else choose_task(path, settings.task)
    vocabulary = load_vocabulary(
        path, trust_remote_code=spec.trust_remote_code, spells_output=task is Task.GENERATE
    )
    if task is not Task.GENERATE:
        return VllmPoolingBackend(spec, settings, task, vocabulary), vocabulary
    for name in POOLING_SETTINGS:
        if getattr(settings, name) is not None:
            raise SpecError(
                f"settings: {name} is for a vLLM engine that embeds, not one that generates"
            )
    return VllmBackend(spec, settings, vocabulary), vocabulary


class VllmBackend:
    def __init__(
        self, spec: EngineSpec, settings: VllmSettings, vocabulary: PretrainedVocabulary
    ) -> None:
        self._spec = spec
        self._vocabulary = vocabulary
        self._settings = settings
        self._jobs: dict[str, Job] = {}
        self._by_key: dict[int, Job] = {}
        self._scheduler: Any = None
        self._sends: set[asyncio.Future[None]] = set()
        self._pool: AdapterPool | None = None
        self._pictures: VllmPictures | None = None
        self._grammars = GrammarChecks(vocabulary)
        self._steps: asyncio.Task[None] | None = None
        self._engine: Any = None
        self._prompt_tokens = self._cached_tokens = self._generated_tokens = 0

    async def start(self, receiver: Receiver) -> Description:
        self._receiver = receiver
        sees = takes_pictures(self._spec)
        # Of what is not taken, vLLM need not load the encoder nor set memory apart.
        limits = {"video": 0, "audio": 0} | ({} if sees else {"image": 0})
        self._engine, version = await asyncio.to_thread(
            start_engine, self._spec, self._settings, {"limit_mm_per_prompt": limits}
        )
        if sees:
            from workers.engine.vllm.pictures import VllmPictures

            tokenizer = self._vocabulary.tokenizer
            self._pictures = VllmPictures(self._spec, self._settings, self._engine, tokenizer)
        self._core = self._engine.engine_core
        self._tasks = await self._core.get_supported_tasks_async()
        self._steps = asyncio.create_task(self._read_steps())
        capabilities = _CAPABILITIES
        if self._spec.max_loras:
            from workers.engine.vllm.adapters import VllmAdapters

            places = adapter_places(self._spec, self._settings)
            adapters = VllmAdapters(self._spec, self._engine)
            self._pool = AdapterPool(places, adapters, receiver.adapters_changed)
            capabilities |= {Capability.LORA}
        return Description(
            engine=f"vllm/{version}",
            max_model_len=self._engine.model_config.max_model_len,
            capabilities=capabilities,
            max_logprobs=MAX_LOGPROBS,
            max_loras=self._spec.max_loras,
            max_lora_rank=self._spec.max_lora_rank if self._spec.max_loras else 0,
            media=self._pictures,
        )

    # --- requests ---------------------------------------------------------------------------------

    async def submit(self, work: Work) -> None:
        if work.grammar is not None:
            from workers.engine.vllm.sampling import check_schema

            check_schema(work.grammar)
            checked = await self._grammars.check(work.grammar)
            work = replace(work, grammar=checked.grammar)
        if work.adapter is not None:
            assert self._pool is not None, "LoRA is declared only with a pool"
            await self._pool.acquire(work.adapter)
        job: Job | None = None
        try:
            request = await self._prepare(work)
            job = Job(work, request.request_id)
            self._jobs[job.request_id] = self._by_key[work.key] = job
            await self._core.add_request_async(request)
        except BaseException as error:
            if job is None:
                self._release(work.adapter)
            else:
                self._forget(job)
            raise refusal(work, error) from error
        # Nothing may reach the receiver before it knows that the sequence was accepted.
        asyncio.get_running_loop().call_soon(self._flush, job)
        self._prompt_tokens += len(work.prompt_ids)

    async def _prepare(self, work: Work) -> Any:
        from workers.engine.vllm.adapters import lora_request
        from workers.engine.vllm.sampling import sampling_params

        processor = self._engine.input_processor
        params = sampling_params(work, self._vocabulary.eos_ids)
        arguments = {
            "request_id": str(work.key),
            "prompt": self._prompt(work),
            "params": params,
            "supported_tasks": self._tasks,
            "priority": int(work.is_spare),  # the lower goes first
            "lora_request": None if work.adapter is None else lora_request(work.adapter),
        }
        if work.grammar is None:
            request = processor.process_inputs(**arguments)
        else:
            # Parses the grammar, which can take long for a large schema.
            request = await asyncio.to_thread(processor.process_inputs, **arguments)
        processor.assign_request_id(request)
        return request

    def _prompt(self, work: Work) -> dict[str, Any]:
        if not work.media:
            prompt = {"type": "token", "prompt_token_ids": work.prompt_ids}
        else:
            assert self._pictures is not None, "media are declared only with a reader"
            prompt = self._pictures.prompt(work)
        return prompt | ({"cache_salt": work.cache_scope} if work.cache_scope else {})

    def abort(self, key: int) -> None:
        job = self._by_key.get(key)
        if job is None:
            return
        self._forget(job)
        sending = asyncio.ensure_future(self._core.abort_requests_async([job.request_id]))
        self._sends.add(sending)
        sending.add_done_callback(self._sends.discard)

    def _forget(self, job: Job) -> None:
        if self._jobs.pop(job.request_id, None) is not None:
            del self._by_key[job.work.key]
            self._release(job.work.adapter)

    def _release(self, adapter: AdapterRef | None) -> None:
        if adapter is not None and self._pool is not None:
            self._pool.release(adapter.name)

    # --- what the engine puts out -----------------------------------------------------------------

    async def _read_steps(self) -> None:
        try:
            while True:
                step = await self._core.get_output_async()
                if step.scheduler_stats is not None:
                    self._scheduler = step.scheduler_stats
                if step.outputs:
                    self._receiver.deliver(self._take_up(step.outputs))
        except Exception as error:  # EngineDeadError, or a step that cannot be read: both are final
            self._receiver.died(f"{type(error).__name__}: {error}")

    def _take_up(self, results: Sequence[Any]) -> list[Output]:
        outputs: list[Output] = []
        for result in results:
            job = self._jobs.get(result.request_id)
            if job is None:
                continue
            output = self._output(job, result)
            if job.held is not None:
                job.held.append(output)
            else:
                outputs.append(output)
        return outputs

    def _flush(self, job: Job) -> None:
        held, job.held = job.held, None
        if held:
            self._receiver.deliver(held)

    def _output(self, job: Job, result: Any) -> Output:
        output = job.read(result)
        if result.prefill_stats is not None:
            self._cached_tokens += job.cached_tokens
        self._generated_tokens += len(result.new_token_ids)
        if output.ended is not None:
            self._forget(job)
        return output

    # --- the rest ---------------------------------------------------------------------------------

    @property
    def adapters(self) -> AdapterHost | None:
        return self._pool

    @property
    def pooling(self) -> None:
        """A server that generates does not embed: that is another runner of the engine."""
        return None

    def stats(self) -> Stats:
        scheduler = self._scheduler
        stats = Stats(
            running=0 if scheduler is None else scheduler.num_running_reqs,
            waiting=0 if scheduler is None else scheduler.num_waiting_reqs,
            kv_usage=0.0 if scheduler is None else scheduler.kv_cache_usage,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
        )
        return with_adapters(stats, self._pool)

    async def close(self) -> None:
        self._grammars.close()
        if self._steps is not None:
            self._steps.cancel()
        if self._pictures is not None:
            self._pictures.close()
        if self._engine is not None:
            await asyncio.to_thread(self._engine.shutdown, SHUTDOWN_TIMEOUT_S)
