"""The worker's heart: requests of all connections in, backend outputs back as events.

Lives on the event loop. Checks every request before the backend sees it, keeps the text side of
each running sequence, and sees to it that each request ends in exactly one final event.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol

from workers.contract.messages import (
    PROTOCOL_VERSION,
    Abort,
    Admitted,
    Authenticate,
    Detokenize,
    Detokenized,
    Done,
    Embed,
    Event,
    Failed,
    FailureKind,
    Finished,
    FinishReason,
    Generate,
    Hello,
    LoadAdapter,
    PromptScored,
    Request,
    Score,
    Token,
    Tokenize,
    Tokenized,
    TokenLogprob,
    UnloadAdapter,
)
from workers.engine.backend import Backend, Description, Ended, Output, RefusedError, Work
from workers.engine.checks import RequestChecks, stop_conditions
from workers.engine.media import expand_media
from workers.engine.pooled import PooledRequests
from workers.engine.text.stream import Piece, TextStream, describe_token
from workers.engine.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)

_INLINE_PROMPT_CHARS = 20_000
"""Longer prompts are tokenised off the event loop, which they would hold up for milliseconds."""


class ClientError(Exception):
    """The peer breaks the protocol; its connection is of no use."""


class Client(Protocol):
    """One connection, as the service sees it."""

    def post(self, event: Event) -> None:
        """Sends soon: events posted in one turn of the event loop share a frame."""
        ...


class _Sequence:
    """A `Generate` under way."""

    __slots__ = ("admitted", "client", "num_output", "num_prompt", "prompt_ids", "request", "text")

    def __init__(self, client: Client, request: Generate) -> None:
        self.client = client
        self.request = request
        self.prompt_ids: list[int] = []
        self.num_prompt = 0
        self.num_output = 0
        self.text: TextStream | None = None
        self.admitted = False


class EngineService:
    def __init__(
        self,
        model_id: str,
        backend: Backend,
        vocabulary: Vocabulary,
        max_requests: int,
        template_difference: str | None = None,
        generation: dict[str, float] | None = None,
    ) -> None:
        self._model_id = model_id
        self._backend = backend
        self._vocabulary = vocabulary
        self._max_requests = max_requests
        self._template_difference = template_difference
        self._generation = generation or {}
        self._keys = itertools.count(1)
        self._sequences: dict[int, _Sequence] = {}
        self._by_request: dict[tuple[Client, int], int] = {}
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
        return len(self._by_request)

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
        )

    # --- connections ------------------------------------------------------------------------------

    def connect(self, client: Client) -> None:
        self._clients.add(client)
        client.post(self.hello())

    def disconnect(self, client: Client) -> None:
        """The connection is gone: nothing it asked for goes on."""
        self._clients.discard(client)
        for (owner, request_id), task in list(self._tasks.items()):
            if owner is client:
                task.cancel()
                del self._tasks[owner, request_id]
        for (owner, request_id), key in list(self._by_request.items()):
            if owner is client:
                del self._by_request[owner, request_id]
                del self._sequences[key]
                self._backend.abort(key)

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
        task = asyncio.ensure_future(self._guard(client, request_id, work))
        self._tasks[client, request_id] = task

    def _check_unused(self, client: Client, request_id: int) -> None:
        """Answering under an id that is in use would end the request that has it."""
        if (client, request_id) in self._tasks or (client, request_id) in self._by_request:
            raise ClientError(f"request id {request_id} used twice")

    async def _guard(
        self, client: Client, request_id: int, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Every way a request's task can go wrong is one `Failed`."""
        try:
            await work()
        except RefusedError as refusal:
            self._refuse(client, request_id, refusal)
        except Exception:
            log.exception("request failed", extra={"request": request_id})
            failure = RefusedError(FailureKind.INTERNAL, "The engine worker met an internal error.")
            self._refuse(client, request_id, failure)
        finally:
            if self._tasks.get((client, request_id)) is asyncio.current_task():
                del self._tasks[client, request_id]

    def _refuse(self, client: Client, request_id: int, refusal: RefusedError) -> None:
        key = self._by_request.pop((client, request_id), None)
        if key is not None:
            del self._sequences[key]
        client.post(Failed(request_id, refusal.kind, refusal.message, refusal.param))

    async def _change_adapter(self, client: Client, request: LoadAdapter | UnloadAdapter) -> None:
        host = self._backend.adapters
        if host is None:
            raise RefusedError(FailureKind.UNSUPPORTED, "This engine serves no adapters.")
        if isinstance(request, LoadAdapter):
            await host.load(request.adapter)
        else:
            await host.unload(request.name)
        client.post(Done(request.id))

    async def _translate(self, client: Client, request: Tokenize | Detokenize) -> None:
        if isinstance(request, Tokenize):
            client.post(Tokenized(request.id, await self._encode(request.prompt)))
            return
        self._checks.token_ids(request.ids, "tokens")
        data = b"".join(self._vocabulary.piece(token_id) for token_id in request.ids)
        client.post(Detokenized(request.id, data.decode("utf-8", "replace")))

    async def _pool(self, client: Client, request: Embed | Score) -> None:
        client.post(await self._pooled.answer(request))

    async def _encode(self, prompt: Sequence[Any]) -> list[int]:
        chars = sum(len(getattr(part, "text", "")) for part in prompt)
        if chars > _INLINE_PROMPT_CHARS:
            return await asyncio.to_thread(self._vocabulary.encode, prompt)
        return self._vocabulary.encode(prompt)

    # --- generation -------------------------------------------------------------------------------

    def _generate(self, client: Client, request: Generate) -> None:
        self._check_unused(client, request.id)
        if len(self._by_request) >= self._max_requests:
            message = "The engine's queue is full. Please try again later."
            self._refuse(client, request.id, RefusedError(FailureKind.OVERLOADED, message))
            return
        key = next(self._keys)
        sequence = _Sequence(client, request)
        self._spawn(client, request.id, partial(self._admit, key, sequence))
        self._sequences[key] = sequence
        self._by_request[client, request.id] = key

    async def _admit(self, key: int, sequence: _Sequence) -> None:
        request = sequence.request
        sampling = request.sampling
        self._checks.request(request)
        assert self._description is not None, "start comes first"
        prompt, media = await expand_media(self._description.media, request.prompt)
        prompt_ids = await self._encode(prompt)
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
        await self._backend.submit(
            Work(
                key,
                prompt_ids,
                sampling,
                max_tokens,
                stop_ids,
                request.adapter,
                request.grammar,
                media,
            )
        )
        sequence.admitted = True
        sequence.client.post(Admitted(request.id, len(prompt_ids)))

    def _abort(self, client: Client, request_id: int) -> None:
        key = self._by_request.get((client, request_id))
        if key is None:
            return  # it has ended already; its final event is on the way
        task = self._tasks.pop((client, request_id), None)
        if task is not None:
            task.cancel()
        self._backend.abort(key)
        self._finish(key, self._sequences[key], FinishReason.ABORT, 0, None)

    # --- what the backend reports (Receiver) ------------------------------------------------------

    def deliver(self, outputs: Sequence[Output]) -> None:
        sequences = self._sequences
        for output in outputs:
            sequence = sequences.get(output.key)
            if sequence is not None:
                self._report(output, sequence)

    def adapters_changed(self) -> None:
        self.broadcast_stats()

    def died(self, reason: str) -> None:
        log.error("engine died", extra={"reason": reason})
        failure = RefusedError(FailureKind.ENGINE_DEAD, "The engine stopped unexpectedly.")
        for client, request_id in {**self._by_request, **self._tasks}:
            self._refuse(client, request_id, failure)
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        self.dead.set()

    def _report(self, output: Output, sequence: _Sequence) -> None:
        text, request_id = sequence.text, sequence.request.id
        assert text is not None, "a submitted sequence has its text stream"
        if output.prompt_scores is not None:
            entries = self._describe_prompt(sequence.prompt_ids, output)
            sequence.client.post(PromptScored(request_id, entries))
        if output.token_ids:
            sequence.num_output += len(output.token_ids)
            piece = text.feed(output.token_ids, output.scores)
            self._send(sequence, piece)
            if piece.stop is not None:
                self._backend.abort(output.key)
                self._finish_stop(output.key, sequence, piece.stop, _cached(output.ended))
                return
        ended = output.ended
        if isinstance(ended, RefusedError):
            self._refuse(sequence.client, request_id, ended)
        elif ended is not None:
            self._end(output.key, sequence, text, ended)

    def _end(self, key: int, sequence: _Sequence, text: TextStream, ended: Ended) -> None:
        sequence.num_output += ended.stop_id is not None
        piece = text.finish()
        self._send(sequence, piece)
        if piece.stop is not None:
            self._finish_stop(key, sequence, piece.stop, ended.cached_tokens)
            return
        asked = ended.stop_id in sequence.request.sampling.stop_token_ids
        stop = ended.stop_id if asked else None
        self._finish(key, sequence, ended.reason, ended.cached_tokens, stop)

    def _finish_stop(self, key: int, sequence: _Sequence, stop: str, cached: int) -> None:
        asked = stop in sequence.request.sampling.stop
        self._finish(key, sequence, FinishReason.STOP, cached, stop if asked else None)

    def _describe_prompt(self, prompt_ids: list[int], output: Output) -> list[TokenLogprob]:
        scores = output.prompt_scores or []
        vocabulary = self._vocabulary
        return [describe_token(vocabulary, t, s) for t, s in zip(prompt_ids, scores, strict=True)]

    def _send(self, sequence: _Sequence, piece: Piece) -> None:
        if piece.token_ids or piece.text:
            sequence.client.post(
                Token(sequence.request.id, list(piece.token_ids), piece.text, piece.logprobs)
            )

    def _finish(
        self,
        key: int,
        sequence: _Sequence,
        reason: FinishReason,
        cached: int,
        stop: str | int | None,
    ) -> None:
        request_id = sequence.request.id
        del self._sequences[key]
        del self._by_request[sequence.client, request_id]
        sequence.client.post(
            Finished(request_id, reason, sequence.num_prompt, sequence.num_output, cached, stop)
        )


def _cached(ended: Ended | RefusedError | None) -> int:
    return ended.cached_tokens if isinstance(ended, Ended) else 0
