"""A vLLM server that an operator already runs, behind our Backend: token ids over its HTTP API.

The tokenizer is a local copy (`model_path`); everything else is the server's. It is asked for its
health every few seconds: one that stays away ends this worker, which its supervisor starts again
until the server is back. Prompt log-probabilities are not declared: they are not streamed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx

from workers.contract.messages import (
    AdapterRef,
    Capability,
    FailureKind,
    FinishReason,
    Stats,
)
from workers.engine.attached.settings import AttachedSettings
from workers.engine.attached.vllm_api import chunk_error, completion_body, read_chunk, refusal
from workers.engine.backend import (
    AdapterHost,
    Description,
    Ended,
    Output,
    Receiver,
    RefusedError,
    Work,
)
from workers.engine.residency import AdapterPool, with_adapters
from workers.engine.spec import EngineSpec, SpecError, read_settings
from workers.engine.text.pretrained import PretrainedVocabulary, load_vocabulary

log = logging.getLogger(__name__)

MAX_LOGPROBS = 20
_HEALTH_INTERVAL_S = 5.0
_MAX_FAILED_CHECKS = 3
_NOT_SERVED = {Capability.EMBED, Capability.SCORE, Capability.LORA, Capability.PROMPT_LOGPROBS}
_CAPABILITIES = frozenset(Capability) - _NOT_SERVED


def create(spec: EngineSpec) -> tuple[AttachedBackend, PretrainedVocabulary]:
    """Raises SpecError."""
    settings = read_settings(spec.settings, AttachedSettings)
    assert spec.model_path is not None, "the spec has checked it"
    vocabulary = load_vocabulary(spec.model_path, trust_remote_code=spec.trust_remote_code)
    return AttachedBackend(spec, settings, vocabulary.eos_ids), vocabulary


_Records = AsyncIterator[dict[str, Any]]


class AttachedBackend:
    def __init__(
        self, spec: EngineSpec, settings: AttachedSettings, eos_ids: frozenset[int]
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._eos_ids = eos_ids
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Future[None]] = set()
        self._pool: AdapterPool | None = None
        self._health: asyncio.Task[None] | None = None
        self._http: httpx.AsyncClient | None = None
        self._base = ""
        self._prompt_tokens = self._generated_tokens = 0

    async def start(self, receiver: Receiver) -> Description:
        self._receiver = receiver
        settings = self._settings
        key = settings.api_key
        self._http = httpx.AsyncClient(
            base_url=settings.url.rstrip("/"),
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(settings.silence_timeout_s, connect=settings.connect_timeout_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )
        self._base, limit = await self._find_model()
        version = (await self._get("/version")).get("version", "unknown")
        capabilities = _CAPABILITIES
        if settings.allow_adapters and self._spec.max_loras:
            host = _ServerAdapters(self._client)
            self._pool = AdapterPool(self._spec.max_loras, host, receiver.adapters_changed)
            capabilities |= {Capability.LORA}
        self._health = asyncio.create_task(self._watch())
        return Description(
            engine=f"attached-vllm/{version}",
            max_model_len=limit,
            capabilities=capabilities,
            max_logprobs=MAX_LOGPROBS,
            max_loras=self._spec.max_loras if self._pool is not None else 0,
            max_lora_rank=self._spec.max_lora_rank if self._pool is not None else 0,
        )

    @property
    def _client(self) -> httpx.AsyncClient:
        assert self._http is not None, "start comes first"
        return self._http

    async def _get(self, path: str) -> dict[str, Any]:
        try:
            answer = await self._client.get(path)
        except httpx.HTTPError as error:
            raise SpecError(f"the attached engine cannot be reached: {error}") from error
        if answer.status_code != 200:
            raise SpecError(f"the attached engine answers {path} with {answer.status_code}")
        return answer.json()

    async def _find_model(self) -> tuple[str, int]:
        """The base model's name there, and its context length. Raises SpecError."""
        listed = (await self._get("/v1/models"))["data"]
        bases = {model["id"]: model for model in listed if not model.get("parent")}
        name = self._settings.served_model
        if name is None and len(bases) == 1:
            name = next(iter(bases))
        if name is None or name not in bases:
            raise SpecError(f"served_model must be one of {', '.join(sorted(bases))}")
        own: int | None = bases[name].get("max_model_len")
        asked = self._spec.max_model_len
        if own is not None and asked is not None and asked > own:
            raise SpecError(f"max_model_len {asked} is over the attached engine's {own}")
        limit = asked or own
        if limit is None:
            raise SpecError("the attached engine names no context length: set max_model_len")
        return name, limit

    # --- requests ---------------------------------------------------------------------------------

    async def submit(self, work: Work) -> None:
        if work.max_tokens == 0:
            output = Output(work.key, ended=Ended(FinishReason.LENGTH))
            asyncio.get_running_loop().call_soon(self._receiver.deliver, [output])
            return
        model = self._base
        if work.adapter is not None:
            assert self._pool is not None, "LoRA is declared only with a pool"
            await self._pool.acquire(work.adapter)
            model = work.adapter.name
        try:
            response = await self._open(work, completion_body(work, model, self._eos_ids))
        except BaseException:
            self._release(work.adapter)
            raise
        records = _records(response)
        first = None
        if work.grammar is not None:
            try:
                first = await self._first(work, records)
            except BaseException:
                self._release(work.adapter)
                await response.aclose()
                raise
        self._prompt_tokens += len(work.prompt_ids)
        task = asyncio.create_task(self._relay(work, records, first))
        self._tasks[work.key] = task
        task.add_done_callback(partial(self._finish, work, response))

    async def _open(self, work: Work, body: dict[str, Any]) -> httpx.Response:
        """The accepted request's stream. Raises RefusedError."""
        client = self._client
        request = client.build_request("POST", "/v1/completions", json=body)
        try:
            response = await client.send(request, stream=True)
            if response.status_code == 200:
                return response
            refused = await response.aread()
            await response.aclose()
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        log.warning("attached engine refused", extra={"status": response.status_code})
        raise refusal(response.status_code, refused, work)

    async def _first(self, work: Work, records: _Records) -> dict[str, Any] | None:
        """The first record of a request with a grammar, which the server compiles only after its
        headers are out. Raises RefusedError."""
        try:
            first = await anext(records, None)
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        refused = None if first is None else chunk_error(work, first)
        if refused is not None:
            raise refused
        return first

    async def _relay(self, work: Work, records: _Records, first: dict[str, Any] | None) -> None:
        has_ended = False
        try:
            if first is not None:
                has_ended = self._deliver(work, first)
            while not has_ended:
                chunk = await anext(records, None)
                if chunk is None:
                    break
                has_ended = self._deliver(work, chunk)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            log.warning("attached engine lost", extra={"reason": type(error).__name__})
        if not has_ended:
            lost = RefusedError(FailureKind.ENGINE_DEAD, "The attached engine broke off.")
            self._receiver.deliver([Output(work.key, ended=lost)])

    def _deliver(self, work: Work, chunk: dict[str, Any]) -> bool:
        """Whether the sequence has ended."""
        output = read_chunk(work, chunk)
        if output is None:
            return False
        self._generated_tokens += len(output.token_ids)
        self._receiver.deliver([output])
        return output.ended is not None

    def _finish(self, work: Work, response: httpx.Response, _task: asyncio.Task[None]) -> None:
        """Also after an abort that came before the relay's first step."""
        del self._tasks[work.key]
        self._release(work.adapter)
        closing = asyncio.ensure_future(response.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def abort(self, key: int) -> None:
        """Closing the connection makes the server stop."""
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
            try:
                answer = await self._client.get("/health", timeout=_HEALTH_INTERVAL_S)
                num_failed = 0 if answer.status_code == 200 else num_failed + 1
            except httpx.HTTPError:
                num_failed += 1
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
            generated_tokens=self._generated_tokens,
        )
        return with_adapters(stats, self._pool)

    async def close(self) -> None:
        tasks = [*self._tasks.values(), *([self._health] if self._health is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._http is not None:
            await self._http.aclose()


class _ServerAdapters:
    """The server reads the files itself; what it says of them is all the check there is."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def check(self, adapter: AdapterRef) -> None:
        """The files may lie where only the server sees them."""

    async def load(self, adapter: AdapterRef) -> None:
        body = {"lora_name": adapter.name, "lora_path": adapter.path}
        status = await self._post("/v1/load_lora_adapter", body)
        if status == 404:
            message = "The attached engine has no such adapter, or does not load adapters."
            raise RefusedError(FailureKind.ADAPTER_NOT_FOUND, message, "model")
        if status != 200:
            message = f"The attached engine could not load adapter {adapter.name!r}."
            raise RefusedError(FailureKind.ADAPTER_INVALID, message, "model")

    async def drop(self, adapter: AdapterRef) -> None:
        status = await self._post("/v1/unload_lora_adapter", {"lora_name": adapter.name})
        if status != 200:
            log.warning("adapter not unloaded", extra={"adapter": adapter.name, "status": status})

    async def _post(self, path: str, body: dict[str, str]) -> int:
        try:
            return (await self._client.post(path, json=body)).status_code
        except httpx.HTTPError as error:
            raise _unreachable(error) from error


def _unreachable(error: httpx.HTTPError) -> RefusedError:
    log.warning("attached engine not reached", extra={"reason": type(error).__name__})
    return RefusedError(FailureKind.OVERLOADED, "The attached engine cannot be reached now.")


async def _records(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))
