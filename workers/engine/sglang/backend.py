"""SGLang behind our Backend: its in-process `Engine`, driven by token ids.

In process rather than over its native `/generate`: the same scheduler and tokenizer manager,
without an HTTP server, a JSON body and an SSE stream per token. A refusal is an exception before
the request is queued, where the HTTP route has already answered 200; the death of a child is seen
at once; and there is no port to find and guard.

Each request goes through the tokenizer manager's own steps (validate, resolve the adapter, send).
Its outputs are taken where the manager rings the request's event, all of one engine step together,
so there is no task and no queue per request. All of this is SGLang's internal API, so its version
is pinned in its environment's recipe.
"""

# SGLang is installed in its own environment, not in the one that type-checks.
# pyright: reportMissingImports=false, reportPrivateUsage=false

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workers.contract.hello import Capability
from workers.contract.messages import FailureKind, Stats
from workers.contract.parts import AdapterRef
from workers.engine.backend import (
    AdapterHost,
    Description,
    Output,
    Receiver,
    RefusedError,
    Work,
)
from workers.engine.grammar_checks import GrammarChecks
from workers.engine.residency import AdapterPool, with_adapters
from workers.engine.sglang.answers import Answer
from workers.engine.sglang.limits import CAPABILITIES, MAX_LOGPROBS, RESERVED_TOKENS
from workers.engine.sglang.settings import (
    SglangSettings,
    adapter_places,
    prepare_environment,
    server_arguments,
)
from workers.engine.spec import EngineSpec, SpecError, read_settings
from workers.engine.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from workers.engine.text.pretrained import PretrainedVocabulary

log = logging.getLogger(__name__)


def create(spec: EngineSpec) -> tuple[SglangBackend, Vocabulary]:
    """Raises SpecError."""
    settings = read_settings(spec.settings, SglangSettings)
    server_arguments(spec, settings)
    prepare_environment(spec)
    # Imports transformers, which must come after the environment is set.
    from workers.engine.text.pretrained import load_vocabulary

    vocabulary = load_vocabulary(spec.model_path or "", trust_remote_code=spec.trust_remote_code)
    return SglangBackend(spec, settings, vocabulary), vocabulary


class _Job:
    """A sequence in the engine."""

    __slots__ = ("answer", "rid", "state", "work")

    def __init__(self, work: Work, *, engine_stops: bool) -> None:
        self.work = work
        self.rid = str(work.key)
        self.answer = Answer(work, engine_stops=engine_stops)
        self.state: Any = None


class _Bell:
    """Stands where the tokenizer manager has a request's `asyncio.Event`."""

    __slots__ = ("_job", "_rung")

    def __init__(self, job: _Job, rung: Callable[[_Job], None]) -> None:
        self._job = job
        self._rung = rung

    def set(self) -> None:
        self._rung(self._job)


class SglangBackend:
    def __init__(
        self, spec: EngineSpec, settings: SglangSettings, vocabulary: PretrainedVocabulary
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._jobs: dict[int, _Job] = {}
        self._rung: list[_Job] = []
        self._pool: AdapterPool | None = None
        self._grammars = GrammarChecks(vocabulary)
        self._engine: Any = None
        self._reading: asyncio.Task[None] | None = None
        self._prompt_tokens = self._cached_tokens = self._generated_tokens = 0
        self._kv_places = 1

    async def start(self, receiver: Receiver) -> Description:
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        # A child that dies, or the watchdog that sees it, sends this.
        reason = "a process of the engine ended"
        self._loop.add_signal_handler(signal.SIGQUIT, receiver.died, reason)
        self._engine, version = await asyncio.to_thread(self._create_engine)
        self._manager = manager = self._engine.tokenizer_manager
        # The manager would start its loop on the first request, and take over SIGTERM with it.
        manager.event_loop = self._loop
        self._reading = asyncio.create_task(self._read_outputs())
        self._eos_ids = _engine_eos_ids(manager)
        info = self._engine._scheduler_init_result.scheduler_infos[0]
        self._kv_places = max(1, info["max_total_num_tokens"])
        capabilities = CAPABILITIES
        if self._settings.enable_deterministic_inference:
            capabilities |= {Capability.SEED}
        if self._spec.max_loras:
            from workers.engine.sglang.adapters import SglangAdapters

            places = adapter_places(self._spec, self._settings)
            adapters = SglangAdapters(self._spec, self._engine)
            self._pool = AdapterPool(places, adapters, receiver.adapters_changed)
            capabilities |= {Capability.LORA}
        return Description(
            engine=f"sglang/{version}",
            max_model_len=min(manager.model_config.context_len, self._kv_places) - RESERVED_TOKENS,
            capabilities=capabilities,
            max_logprobs=MAX_LOGPROBS,
            max_loras=self._spec.max_loras,
            max_lora_rank=self._spec.max_lora_rank if self._spec.max_loras else 0,
        )

    def _create_engine(self) -> tuple[Any, str]:
        try:
            from sglang.srt.entrypoints.engine import Engine
            from sglang.version import __version__
        except (ImportError, RuntimeError) as error:  # libraries that want CUDA raise either
            raise SpecError(
                f"SGLang cannot be loaded: {error}. Its compiled kernels have no CPU build: on a "
                "machine without CUDA use engine: hf or vllm"
            ) from error

        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        engine = Engine(**server_arguments(self._spec, self._settings))
        # SGLang has put its own handler in place of the worker's.
        root.handlers[:] = handlers
        root.setLevel(level)
        return engine, str(__version__)

    async def _read_outputs(self) -> None:
        try:
            await self._manager.handle_loop()
        except Exception as error:  # no output can be read any more
            self._receiver.died(f"{type(error).__name__}: {error}")

    # --- requests ---------------------------------------------------------------------------------

    async def submit(self, work: Work) -> None:
        from workers.engine.sglang.sampling import check_served

        check_served(work)
        if work.grammar is not None:
            # SGLang finds a bad grammar only after it has taken the request.
            checked = await self._grammars.check(work.grammar)
            work = replace(work, grammar=checked.grammar)
        if work.adapter is not None:
            assert self._pool is not None, "LoRA is declared only with a pool"
            await self._pool.acquire(work.adapter)
        # A grammar that has come to its end ends the sequence, whatever the request ignores.
        engine_stops = work.grammar is not None or self._eos_ids <= work.stop_ids
        job = _Job(work, engine_stops=engine_stops)
        self._jobs[work.key] = job
        try:
            await self._send(job)
        except BaseException as error:
            self._forget(job)
            if isinstance(error, ValueError):
                kind = FailureKind.INVALID_REQUEST
                raise RefusedError(kind, str(error)) from error
            raise
        self._prompt_tokens += len(work.prompt_ids)

    async def _send(self, job: _Job) -> None:
        """`TokenizerManager.generate_request` up to where it waits for the answer."""
        manager, request = self._manager, self._request(job)
        request.normalize_batch_and_arguments()
        manager._init_req_state(request)
        job.state = manager.rid_to_state[job.rid]
        job.state.event = _Bell(job, self._ring)
        try:
            await manager._validate_and_resolve_lora(request)
            tokenized = await manager._tokenize_one_request(request)
            await manager._send_one_request(tokenized)
        except BaseException:
            manager._release_req_states_on_failure({job.rid: job.state})
            raise

    def _request(self, job: _Job) -> Any:
        from sglang.srt.managers.io_struct import GenerateReqInput

        from workers.engine.sglang.sampling import sampling_params

        work, sampling = job.work, job.work.sampling
        asked = [n for n in (sampling.logprobs, sampling.prompt_logprobs) if n is not None]
        return GenerateReqInput(
            rid=job.rid,
            input_ids=list(work.prompt_ids),
            sampling_params=sampling_params(work, engine_stops=job.answer.engine_stops),
            lora_path=None if work.adapter is None else work.adapter.name,
            return_logprob=bool(asked),
            top_logprobs_num=max(asked, default=0),
            logprob_start_len=0 if sampling.prompt_logprobs is not None else -1,
            return_text_in_logprobs=False,
            cache_salt=work.cache_scope or None,
            stream=True,
        )

    def abort(self, key: int) -> None:
        job = self._jobs.get(key)
        if job is not None:
            self._forget(job)
            self._manager.abort_request(job.rid)

    def _forget(self, job: _Job) -> None:
        if self._jobs.pop(job.work.key, None) is not None:
            self._release(job.work.adapter)

    def _release(self, adapter: AdapterRef | None) -> None:
        if adapter is not None and self._pool is not None:
            self._pool.release(adapter.name)

    # --- what the engine puts out -----------------------------------------------------------------

    def _ring(self, job: _Job) -> None:
        """Called for each request of a step, one after another in one turn of the event loop."""
        if not self._rung:
            self._loop.call_soon(self._deliver)
        self._rung.append(job)

    def _deliver(self) -> None:
        rung, self._rung = self._rung, []
        outputs: list[Output] = []
        for job in rung:
            chunks, job.state.out_list = job.state.out_list, []
            for chunk in chunks:
                if job.work.key in self._jobs:
                    outputs.append(self._output(job, chunk))
        self._receiver.deliver(outputs)

    def _output(self, job: _Job, chunk: dict[str, Any]) -> Output:
        answer = job.answer
        is_first, before = not answer.num_output, answer.num_output
        output = answer.read(chunk)
        if is_first:
            self._cached_tokens += answer.cached_tokens
        self._generated_tokens += answer.num_output - before
        if answer.stops_here:
            self._manager.abort_request(job.rid)
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
        started = [job for job in self._jobs.values() if job.answer.num_output]
        held = sum(len(job.work.prompt_ids) + job.answer.num_output for job in started)
        stats = Stats(
            running=len(started),
            waiting=len(self._jobs) - len(started),
            kv_usage=min(1.0, held / self._kv_places),
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
        )
        return with_adapters(stats, self._pool)

    async def close(self) -> None:
        self._grammars.close()
        if self._reading is not None:
            self._reading.cancel()
        if self._engine is not None:
            await asyncio.to_thread(self._engine.shutdown)


def _engine_eos_ids(manager: Any) -> frozenset[int]:
    """The ids at which SGLang ends a sequence whatever the request's stop ids are."""
    tokenizer = manager.tokenizer
    ids = set(manager.model_config.hf_eos_token_id or ())
    ids |= set(getattr(tokenizer, "additional_stop_token_ids", None) or ())
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return frozenset(ids)
