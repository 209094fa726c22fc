"""The worker's heart: requests of all connections in, backend outputs back as events.

Lives on the event loop. Checks every request before the backend sees it, keeps the text side of
each running sequence, and sees to it that each request ends in exactly one final event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from collections.abc import Sequence as Several
from functools import partial
from typing import Any

import msgspec

from workers.contract.hello import PROTOCOL_VERSION, Hello
from workers.contract.messages import (
    Abort,
    AdapterMissing,
    AdapterPart,
    Admitted,
    Authenticate,
    Detokenize,
    Detokenized,
    Done,
    Embed,
    FailureKind,
    Generate,
    Leaving,
    LoadAdapter,
    Request,
    Score,
    Tokenize,
    Tokenized,
    UnloadAdapter,
)
from workers.contract.parts import AdapterRef
from workers.engine.adapter_store import AdapterStore
from workers.engine.backend import Backend, Description, Output, RefusedError, Work
from workers.engine.checks import RequestChecks, stop_conditions
from workers.engine.media import expand_media
from workers.engine.pooled import PooledRequests
from workers.engine.sequences import Client, Sequence, Sequences
from workers.engine.text.stream import TextStream
from workers.engine.text.vocabulary import Vocabulary, encode

log = logging.getLogger(__name__)


class ClientError(Exception):
    """The peer breaks the protocol; its connection is of no use."""


class EngineService:
    def __init__(
        self,
        model_id: str,
        backend: Backend,
        vocabulary: Vocabulary,
        max_requests: int,
        template_difference: str | None = None,
        generation: dict[str, float] | None = None,
        adapter_store: AdapterStore | None = None,
    ) -> None:
        self._model_id = model_id
        self._backend = backend
        self._vocabulary = vocabulary
        self._max_requests = max_requests
        self._template_difference = template_difference
        self._generation = generation or {}
        self._sequences = Sequences(backend, vocabulary)
        self._adapter_store = adapter_store
        self._is_leaving = False
        self._tasks: dict[tuple[Client, int], asyncio.Task[None]] = {}
        self._clients: set[Client] = set()
        self._description: Description | None = None
        self.dead = asyncio.Event()

    async def start(self) -> None:
        self._description = await self._backend.start(self)
        self._checks = RequestChecks(self._description, self._vocabulary)
        self._pooled = PooledRequests(
            self._backend.pooling, self._description, self._vocabulary, self._checks
        )

    @property
    def num_active(self) -> int:
        return len(self._sequences) + len(self._tasks)

    def hello(self) -> Hello:
        description, names = self._description, self._vocabulary.names
        assert description is not None, "start comes first"
        return Hello(
            protocol=PROTOCOL_VERSION,
            model=self._model_id,
            engine=description.engine,
            max_model_len=description.max_model_len,
            vocab_size=self._vocabulary.size,
            capabilities=sorted(description.capabilities),
            max_logprobs=description.max_logprobs,
            max_loras=description.max_loras,
            max_lora_rank=description.max_lora_rank,
            bos_token=names.bos_token,
            eos_token=names.eos_token,
            special_tokens=names.special_tokens,
            chat_templates=names.chat_templates,
            template_difference=self._template_difference,
            media=description.media.placeholders if description.media is not None else {},
            generation=self._generation,
            compatibility=description.compatibility,
        )

    # --- connections ------------------------------------------------------------------------------

    def connect(self, client: Client) -> None:
        self._clients.add(client)
        client.post(self.hello())
        if self._is_leaving:
            client.post(Leaving())

    def disconnect(self, client: Client) -> None:
        """The connection is gone: nothing it asked for goes on."""
        self._clients.discard(client)
        for (owner, request_id), task in list(self._tasks.items()):
            if owner is client:
                task.cancel()
                del self._tasks[owner, request_id]
        self._sequences.drop(client)

    def leave(self) -> None:
        """What is under way goes on; whatever comes is refused, and the clients are told."""
        self._is_leaving = True
        for client in self._clients:
            client.post(Leaving())

    def broadcast_stats(self) -> None:
        if self._clients:
            stats = self._backend.stats()
            for client in self._clients:
                client.post(stats)

    # --- requests ---------------------------------------------------------------------------------

    def handle(self, client: Client, request: Request) -> None:
        """Raises ClientError."""
        if isinstance(request, Abort):
            self._abort(client, request.id)
        elif isinstance(request, Generate):
            self._generate(client, request)
        elif isinstance(request, AdapterPart | AdapterMissing):
            if self._adapter_store is not None:
                self._adapter_store.receive(client, request)
        elif isinstance(request, Authenticate):
            pass  # the listener has dealt with it; on a unix socket it says nothing
        elif isinstance(request, LoadAdapter | UnloadAdapter):
            self._spawn(client, request.id, partial(self._change_adapter, client, request))
        elif isinstance(request, Tokenize | Detokenize):
            self._spawn(client, request.id, partial(self._translate, client, request))
        else:
            self._spawn(client, request.id, partial(self._pool, client, request))

    def _spawn(
        self, client: Client, request_id: int, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._check_unused(client, request_id)
        self._start(client, request_id, work)

    def _start(
        self, client: Client, request_id: int, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        task = asyncio.ensure_future(self._guard(client, request_id, work))
        self._tasks[client, request_id] = task

    def _check_unused(self, client: Client, request_id: int) -> None:
        """Answering under an id that is in use would end the request that has it."""
        if (client, request_id) in self._tasks or (client, request_id) in self._sequences:
            raise ClientError(f"request id {request_id} used twice")

    async def _guard(
        self, client: Client, request_id: int, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Every way a request's task can go wrong is one `Failed`."""
        try:
            await work()
        except RefusedError as refusal:
            self._sequences.refuse(client, request_id, refusal)
        except Exception:
            log.exception("request failed", extra={"request": request_id})
            failure = RefusedError(FailureKind.INTERNAL, "The engine worker met an internal error.")
            self._sequences.refuse(client, request_id, failure)
        finally:
            if self._tasks.get((client, request_id)) is asyncio.current_task():
                del self._tasks[client, request_id]

    async def _at_hand(self, client: Client, adapter: AdapterRef) -> AdapterRef:
        store = self._adapter_store
        return adapter if store is None else await store.at_hand(client, adapter)

    async def _change_adapter(self, client: Client, request: LoadAdapter | UnloadAdapter) -> None:
        host = self._backend.adapters
        if host is None:
            raise RefusedError(FailureKind.UNSUPPORTED, "This engine serves no adapters.")
        if isinstance(request, LoadAdapter):
            await host.load(await self._at_hand(client, request.adapter))
        else:
            await host.unload(request.name)
            if self._adapter_store is not None:
                await self._adapter_store.forget(request.name)
        client.post(Done(request.id))

    async def _translate(self, client: Client, request: Tokenize | Detokenize) -> None:
        if isinstance(request, Tokenize):
            client.post(Tokenized(request.id, await encode(self._vocabulary, request.prompt)))
            return
        self._checks.token_ids(request.ids, "tokens")
        data = b"".join(self._vocabulary.piece(token_id) for token_id in request.ids)
        client.post(Detokenized(request.id, data.decode("utf-8", "replace")))

    async def _pool(self, client: Client, request: Embed | Score) -> None:
        if request.adapter is not None:
            adapter = await self._at_hand(client, request.adapter)
            request = msgspec.structs.replace(request, adapter=adapter)
        client.post(await self._pooled.answer(request))

    # --- generation -------------------------------------------------------------------------------

    def _generate(self, client: Client, request: Generate) -> None:
        self._check_unused(client, request.id)
        if self._is_leaving or len(self._sequences) >= self._max_requests:
            message = "The engine takes no more requests. Please try again later."
            self._sequences.refuse(
                client, request.id, RefusedError(FailureKind.OVERLOADED, message)
            )
            return
        sequence = Sequence(client, request)
        key = self._sequences.add(sequence)
        self._start(client, request.id, partial(self._admit, key, sequence))

    async def _admit(self, key: int, sequence: Sequence) -> None:
        request = sequence.request
        sampling = request.sampling
        self._checks.request(request)
        assert self._description is not None, "start comes first"
        prompt, media = await expand_media(self._description.media, request.prompt)
        prompt_ids = await encode(self._vocabulary, prompt)
        max_tokens = self._checks.prompt(prompt_ids, sampling)
        stop_ids, stop_texts = stop_conditions(sampling, self._vocabulary)
        sequence.prompt_ids = prompt_ids if sampling.prompt_logprobs is not None else []
        sequence.num_prompt = len(prompt_ids)
        sequence.text = TextStream(
            self._vocabulary,
            stop_texts,
            skip_special_tokens=sampling.skip_special_tokens,
            min_tokens=sampling.min_tokens,
        )
        adapter = request.adapter
        if adapter is not None:
            adapter = await self._at_hand(sequence.client, adapter)
        await self._backend.submit(
            Work(
                key,
                prompt_ids,
                sampling,
                max_tokens,
                stop_ids,
                adapter,
                request.grammar,
                media,
                request.cache_scope,
                request.is_spare,
            )
        )
        sequence.admitted = True
        num_audio = sum(one.audio_tokens for one in media)
        sequence.client.post(Admitted(request.id, len(prompt_ids), audio_tokens=num_audio))

    def _abort(self, client: Client, request_id: int) -> None:
        if (client, request_id) not in self._sequences:
            return
        task = self._tasks.pop((client, request_id), None)
        if task is not None:
            task.cancel()
        self._sequences.abort(client, request_id)

    # --- what the backend reports (Receiver) ------------------------------------------------------

    def deliver(self, outputs: Several[Output]) -> None:
        self._sequences.deliver(outputs)

    def adapters_changed(self) -> None:
        self.broadcast_stats()

    def died(self, reason: str) -> None:
        log.error("engine died", extra={"reason": reason})
        failure = RefusedError(FailureKind.ENGINE_DEAD, "The engine stopped unexpectedly.")
        for client, request_id in dict.fromkeys([*self._sequences.requests, *self._tasks]):
            self._sequences.refuse(client, request_id, failure)
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        self.dead.set()
