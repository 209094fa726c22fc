"""A vLLM or SGLang server that an operator already runs, behind our Backend: token ids over HTTP.

The tokenizer is a local copy (`model_path`); everything else is the server's. It is asked for its
health every few seconds: one that stays away ends this worker, which its supervisor starts again
until the server is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

import httpx

from workers.contract.hello import Capability
from workers.contract.messages import FailureKind, FinishReason, Stats
from workers.contract.parts import AdapterRef
from workers.engine.attached.adapters import ServerAdapters
from workers.engine.attached.connection import OK, Connection, records, unreachable
from workers.engine.attached.flavours import find_server
from workers.engine.attached.server import Call, Served
from workers.engine.attached.settings import AttachedSettings
from workers.engine.backend import (
    AdapterHost,
    Description,
    Ended,
    Output,
    Receiver,
    RefusedError,
    Work,
)
from workers.engine.grammar_checks import GrammarChecks
from workers.engine.residency import AdapterPool, with_adapters
from workers.engine.spec import EngineSpec, SpecError, read_settings
from workers.engine.text.pretrained import PretrainedVocabulary, load_vocabulary

log = logging.getLogger(__name__)

MAX_LOGPROBS = 20
_HEALTH_INTERVAL_S = 5.0
_MAX_FAILED_CHECKS = 3

_Records = AsyncIterator[dict[str, Any]]


def create(spec: EngineSpec) -> tuple[AttachedBackend, PretrainedVocabulary]:
    """Raises SpecError."""
    settings = read_settings(spec.settings, AttachedSettings)
    assert spec.model_path is not None, "the spec has checked it"
    vocabulary = load_vocabulary(spec.model_path, trust_remote_code=spec.trust_remote_code)
    return AttachedBackend(spec, settings, vocabulary), vocabulary


class AttachedBackend:
    def __init__(
        self, spec: EngineSpec, settings: AttachedSettings, vocabulary: PretrainedVocabulary
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._eos_ids = vocabulary.eos_ids
        self._grammars = GrammarChecks(vocabulary)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Future[None]] = set()
        self._pool: AdapterPool | None = None
        self._health: asyncio.Task[None] | None = None
        self._connection = Connection(settings)
        self._prompt_tokens = self._cached_tokens = self._generated_tokens = 0

    async def start(self, receiver: Receiver) -> Description:
        self._receiver = receiver
        flavour, self._server = await find_server(
            self._spec, self._settings, self._connection, self._eos_ids
        )
        served = await self._server.describe()
        limit = _limit(self._spec, served)
        capabilities = served.capabilities - {Capability.LORA}
        max_loras = max_lora_rank = 0
        if self._settings.allow_adapters and self._spec.max_loras:
            if Capability.LORA not in served.capabilities:
                raise SpecError("allow_adapters: the attached engine was started without LoRA")
            host = ServerAdapters(self._spec, self._connection, self._server, served.adapter_rules)
            max_loras, max_lora_rank = self._spec.max_loras, served.adapter_rules.max_rank
            self._pool = AdapterPool(max_loras, host, receiver.adapters_changed)
            capabilities |= {Capability.LORA}
        self._health = asyncio.create_task(self._watch())
        return Description(
            engine=f"attached-{flavour}/{served.version}",
            max_model_len=limit,
            capabilities=capabilities,
            max_logprobs=MAX_LOGPROBS,
            max_loras=max_loras,
            max_lora_rank=max_lora_rank,
        )

    # --- requests ---------------------------------------------------------------------------------

    async def submit(self, work: Work) -> None:
        if work.max_tokens == 0 and work.sampling.prompt_logprobs is None:
            output = Output(work.key, ended=Ended(FinishReason.LENGTH))
            asyncio.get_running_loop().call_soon(self._receiver.deliver, [output])
            return
        if work.grammar is not None:
            checked = await self._grammars.check(work.grammar)
            work = replace(work, grammar=checked.grammar)
        call = self._server.call(work)
        if work.adapter is not None:
            assert self._pool is not None, "LoRA is declared only with a pool"
            await self._pool.acquire(work.adapter)
        try:
            response, source, first = await self._open(work, call)
        except BaseException:
            self._release(work.adapter)
            raise
        self._prompt_tokens += len(work.prompt_ids)
        task = asyncio.create_task(self._relay(work, call, source, first))
        self._tasks[work.key] = task
        task.add_done_callback(partial(self._finish, work, call, response))

    async def _open(self, work: Work, call: Call) -> tuple[httpx.Response, _Records, Output | None]:
        """The accepted request's stream, and what its first record said if that had to be waited
        for. Raises RefusedError."""
        try:
            response = await self._connection.open(call.path, call.body, work)
            source = records(response)
            if not call.refuses_late:
                return response, source, None
            try:
                return response, source, await _first(call, source)
            except BaseException:
                await response.aclose()
                raise
        except asyncio.CancelledError:
            self._close(self._server.abort(work.key))
            raise

    async def _relay(self, work: Work, call: Call, source: _Records, first: Output | None) -> None:
        has_ended = first is not None and self._deliver(first)
        try:
            while not has_ended and (record := await anext(source, None)) is not None:
                output = call.read(record)
                has_ended = output is not None and self._deliver(output)
            if not has_ended and (last := call.finish()) is not None:
                has_ended = self._deliver(last)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            log.warning("attached engine lost", extra={"reason": type(error).__name__})
        if not has_ended:
            lost = RefusedError(FailureKind.ENGINE_DEAD, "The attached engine broke off.")
            self._receiver.deliver([Output(work.key, ended=lost)])

    def _deliver(self, output: Output) -> bool:
        """Whether the sequence has ended."""
        self._generated_tokens += len(output.token_ids)
        if isinstance(output.ended, Ended):
            self._cached_tokens += output.ended.cached_tokens
        self._receiver.deliver([output])
        return output.ended is not None

    def _finish(
        self, work: Work, call: Call, response: httpx.Response, task: asyncio.Task[None]
    ) -> None:
        """Also after an abort that came before the relay's first step."""
        del self._tasks[work.key]
        self._release(work.adapter)
        self._close(response.aclose())
        if task.cancelled() or call.stops_here:
            self._close(self._server.abort(work.key))

    def _close(self, leaving: Any) -> None:
        """Runs a coroutine that nobody waits for but `close`."""
        closing = asyncio.ensure_future(leaving)
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def abort(self, key: int) -> None:
        task = self._tasks.get(key)
        if task is not None:
            task.cancel()

    def _release(self, adapter: AdapterRef | None) -> None:
        if adapter is not None and self._pool is not None:
            self._pool.release(adapter.name)

    # --- the rest ---------------------------------------------------------------------------------

    async def _watch(self) -> None:
        num_failed = 0
        while num_failed < _MAX_FAILED_CHECKS:
            await asyncio.sleep(_HEALTH_INTERVAL_S)
            status = await self._connection.status(self._server.health_path, _HEALTH_INTERVAL_S)
            num_failed = 0 if status == OK else num_failed + 1
        self._receiver.died("the attached engine does not answer")

    @property
    def adapters(self) -> AdapterHost | None:
        return self._pool

    @property
    def pooling(self) -> None:
        """A server that generates does not embed: that is another runner of the engine."""
        return None

    def stats(self) -> Stats:
        stats = Stats(
            running=len(self._tasks),
            waiting=0,
            kv_usage=0.0,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
        )
        return with_adapters(stats, self._pool)

    async def close(self) -> None:
        tasks = [*self._tasks.values(), *([self._health] if self._health is not None else [])]
        for task in tasks:
            task.cancel()
        self._grammars.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._connection.close()


async def _first(call: Call, source: _Records) -> Output | None:
    """What the first record says. Raises RefusedError if it is a refusal."""
    try:
        record = await anext(source, None)
    except httpx.HTTPError as error:
        raise unreachable(error) from error
    output = None if record is None else call.read(record)
    if output is not None and isinstance(output.ended, RefusedError):
        raise output.ended
    return output


def _limit(spec: EngineSpec, served: Served) -> int:
    """Raises SpecError."""
    own, asked = served.max_model_len, spec.max_model_len
    if own is not None and asked is not None and asked > own:
        raise SpecError(f"max_model_len {asked} is over the attached engine's {own}")
    limit = asked or own
    if limit is None:
        raise SpecError("the attached engine names no context length: set max_model_len")
    return limit
