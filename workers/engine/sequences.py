"""The sequences under way, and the backend's outputs as their events: each ends in exactly one
final event, whatever comes first."""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Several
from typing import Protocol

from workers.contract.messages import (
    Event,
    Failed,
    Finished,
    FinishReason,
    Generate,
    PromptScored,
    Token,
    TokenLogprob,
)
from workers.engine.backend import Backend, Ended, Output, RefusedError
from workers.engine.text.stream import Piece, TextStream, describe_token
from workers.engine.text.vocabulary import Vocabulary


class Client(Protocol):
    """One connection, as the service sees it."""

    def post(self, event: Event) -> None:
        """Sends soon: events posted in one turn of the event loop share a frame."""
        ...


class Sequence:
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


class Sequences:
    def __init__(self, backend: Backend, vocabulary: Vocabulary) -> None:
        self._backend = backend
        self._vocabulary = vocabulary
        self._next_key = itertools.count(1)
        self._running: dict[int, Sequence] = {}
        self._keys: dict[tuple[Client, int], int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, request: tuple[Client, int]) -> bool:
        return request in self._keys

    @property
    def requests(self) -> list[tuple[Client, int]]:
        return list(self._keys)

    def add(self, sequence: Sequence) -> int:
        """The key it is known by to the backend."""
        key = next(self._next_key)
        self._running[key] = sequence
        self._keys[sequence.client, sequence.request.id] = key
        return key

    def drop(self, client: Client) -> None:
        """The connection is gone: nothing it asked for goes on."""
        for (owner, request_id), key in list(self._keys.items()):
            if owner is client:
                del self._keys[owner, request_id]
                del self._running[key]
                self._backend.abort(key)

    def abort(self, client: Client, request_id: int) -> bool:
        """False if it has ended already; its final event is on the way then."""
        key = self._keys.get((client, request_id))
        if key is None:
            return False
        self._backend.abort(key)
        self._finish(key, self._running[key], FinishReason.ABORT, 0, None)
        return True

    def refuse(self, client: Client, request_id: int, refusal: RefusedError) -> None:
        """Also for a request that is no sequence."""
        key = self._keys.pop((client, request_id), None)
        if key is not None:
            del self._running[key]
        client.post(Failed(request_id, refusal.kind, refusal.message, refusal.param))

    def deliver(self, outputs: Several[Output]) -> None:
        running = self._running
        for output in outputs:
            sequence = running.get(output.key)
            if sequence is not None:
                self._report(output, sequence)

    def _report(self, output: Output, sequence: Sequence) -> None:
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
            self.refuse(sequence.client, request_id, ended)
        elif ended is not None:
            self._end(output.key, sequence, text, ended)

    def _end(self, key: int, sequence: Sequence, text: TextStream, ended: Ended) -> None:
        sequence.num_output += ended.stop_id is not None
        piece = text.finish()
        self._send(sequence, piece)
        if piece.stop is not None:
            self._finish_stop(key, sequence, piece.stop, ended.cached_tokens)
            return
        asked = ended.stop_id in sequence.request.sampling.stop_token_ids
        stop = ended.stop_id if asked else None
        self._finish(key, sequence, ended.reason, ended.cached_tokens, stop)

    def _finish_stop(self, key: int, sequence: Sequence, stop: str, cached: int) -> None:
        asked = stop in sequence.request.sampling.stop
        self._finish(key, sequence, FinishReason.STOP, cached, stop if asked else None)

    def _describe_prompt(self, prompt_ids: list[int], output: Output) -> list[TokenLogprob]:
        scores = output.prompt_scores or []
        vocabulary = self._vocabulary
        return [describe_token(vocabulary, t, s) for t, s in zip(prompt_ids, scores, strict=True)]

    def _send(self, sequence: Sequence, piece: Piece) -> None:
        if piece.token_ids or piece.text:
            sequence.client.post(
                Token(sequence.request.id, list(piece.token_ids), piece.text, piece.logprobs)
            )

    def _finish(
        self,
        key: int,
        sequence: Sequence,
        reason: FinishReason,
        cached: int,
        stop: str | int | None,
    ) -> None:
        request_id = sequence.request.id
        del self._running[key]
        del self._keys[sequence.client, request_id]
        sequence.client.post(
            Finished(request_id, reason, sequence.num_prompt, sequence.num_output, cached, stop)
        )


def _cached(ended: Ended | RefusedError | None) -> int:
    return ended.cached_tokens if isinstance(ended, Ended) else 0
