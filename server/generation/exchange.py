"""One generating request from admission to its last byte.

An exchange runs one or more sequences. The response does not start before all of them are admitted,
so a refusal by the engine is still a plain error response. A sequence whose engine is lost before
its first token is started again on another one. Once started, everything here is called by the
engine connections' readers, and `abort` when the reply is over or the caller has hung up.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from server.engines.client import EngineConnection, Silent, Work
from server.engines.pool import EnginePool
from server.errors import ApiError, InternalError, InvalidRequest, from_failure
from server.generation.output import Continuation, ErrorNamer, Output, Route
from server.timing import Timing
from server.usage import Tally
from workers.contract.messages import (
    Admitted,
    Event,
    Failed,
    FailureKind,
    Finished,
    FinishReason,
    PromptScored,
    Token,
)

MAX_ATTEMPTS = 3
_MAX_EARLY = 16_384
"""Events that a response waits with for the last of its sequences to be admitted."""
_TOKEN_BYTES, _LOGPROB_BYTES = 64, 180
"""What one token of an answer takes up until the answer is whole, and each log probability."""
_RETRIABLE = frozenset({FailureKind.ENGINE_DEAD, FailureKind.OVERLOADED})


class _Sequence:
    """One `Generate`, on whichever engine it runs now."""

    __slots__ = (
        "_exchange",
        "attempts",
        "avoid",
        "connection",
        "continues",
        "has_output",
        "index",
        "last",
        "number",
        "work",
    )

    def __init__(self, exchange: Exchange, index: int, work: Work) -> None:
        self._exchange = exchange
        self.index = index
        self.work = work
        self.connection: EngineConnection | None = None
        self.number = 0
        self.attempts = 0
        self.avoid: set[str] = set()
        self.last = False
        """Whether its last event has come."""
        self.continues = False
        """Whether it took another's place."""
        self.has_output = False
        """Whether the caller has seen something of it: it cannot start anew."""

    def start(self, connection: EngineConnection) -> None:
        self.attempts += 1
        self.connection = connection
        sink = partial(self._exchange.receive, self)
        exchange = self._exchange
        self.number = connection.generate(
            self.work, sink, exchange.cache_scope, is_spare=exchange.is_spare
        )

    def abort(self) -> None:
        if self.connection is not None and not self.last:
            self.connection.abort(self.number)


class Exchange:
    """Runs `works` and feeds `output`. `prompts` says which of the sequences stand for a prompt of
    their own in the token counts (every n-th where a prompt has n answers)."""

    def __init__(
        self,
        pool: EnginePool,
        route: Route,
        works: Sequence[Work],
        output: Output,
        *,
        cache_scope: str = "",
        answers_per_prompt: int = 1,
        name_error: ErrorNamer | None = None,
        max_answer_bytes: int | None = None,
        is_spare: bool = False,
    ) -> None:
        self.tally = Tally()
        self.timing = Timing()
        self.cache_scope = cache_scope
        self.is_spare = is_spare
        self.over = False
        """Nothing more is written: ended, failed, or the caller is gone."""
        self._pool = pool
        self._route = route
        self._output = output
        self._answers_per_prompt = answers_per_prompt
        self._name_error = name_error
        self._sequences = [_Sequence(self, index, work) for index, work in enumerate(works)]
        self._admitted: set[int] = set()
        self._early: list[tuple[_Sequence, Event]] | None = [] if len(works) > 1 else None
        """Events that came before every sequence was admitted."""
        self._begun = False
        self._max_tokens = sys.maxsize
        if output.is_kept and max_answer_bytes is not None:
            self._max_tokens = max_answer_bytes // _token_bytes(works[0].sampling.logprobs)
        self._unfinished = len(works)

    @property
    def affinity(self) -> str | None:
        """Only what shares a cache is drawn to one replica."""
        affinity = self._route.affinity
        return None if affinity is None else f"{self.cache_scope}:{affinity}"

    def start(self) -> None:
        """Raises ApiError when no engine takes the request."""
        self._pool.check_room(self._route.engine_model, len(self._sequences))
        for sequence in self._sequences:
            sequence.start(self._pool.pick(self._route.engine_model, sequence.work.adapter, self))

    def abort(self) -> None:
        """Ends it, whatever its state. The sequences are let go, as they hold the exchange: in a
        circle, all that a request has made would wait for the garbage collector, which costs more
        than the rest of a short request."""
        self.over = True
        sequences, self._sequences, self._early = self._sequences, [], None
        for sequence in sequences:
            sequence.abort()

    def receive(self, sequence: _Sequence, event: Event | Silent) -> None:
        """After a fault of ours in the handling of an event the caller is told at once."""
        try:
            if type(event) is Token and self._begun:
                self.tally.completion_tokens += len(event.token_ids)
                if self.tally.completion_tokens > self._max_tokens and not self.over:
                    self._fail(_too_large())
                elif not self.over:
                    if not sequence.has_output:
                        sequence.has_output = True
                        self.timing.note_token()
                    continuation = self._output.token(sequence.index, event)
                    if continuation is not None:
                        self._go_on(sequence, continuation)
            else:
                self._take(sequence, event)
        except Exception:
            self._fail(InternalError())
            raise

    def _take(self, sequence: _Sequence, event: Event | Silent) -> None:
        if isinstance(event, Admitted):
            self._admit(sequence, event)
        elif isinstance(event, Silent):
            self._move(sequence)
        elif isinstance(event, Failed):
            self._handle_failure(sequence, event)
        elif not self._begun and self._early is not None:
            self._early.append((sequence, event))
            if len(self._early) > _MAX_EARLY:
                self._begin()
        elif isinstance(event, Finished):
            self._finish(sequence, event)
        elif isinstance(event, PromptScored) and not self.over:
            sequence.has_output = True
            self.timing.note_token()
            self._output.scored(sequence.index, event)

    def _admit(self, sequence: _Sequence, event: Admitted) -> None:
        if sequence.index in self._admitted:
            return
        self._admitted.add(sequence.index)
        if sequence.index % self._answers_per_prompt == 0:
            self.tally.prompt_tokens += event.prompt_tokens
            self.tally.audio_tokens += event.audio_tokens
        if len(self._admitted) == len(self._sequences) and not self._begun:
            self._begin()

    def _begin(self) -> None:
        self._begun = True
        self.timing.admit()
        if not self.over:
            self._output.begin()
        early, self._early = self._early or [], None
        for waiting, held in early:
            if self._sequences and self._sequences[waiting.index] is waiting:
                self.receive(waiting, held)

    def _go_on(self, sequence: _Sequence, continuation: Continuation) -> None:
        self.tally.completion_tokens += continuation.added_tokens
        connection = sequence.connection
        assert connection is not None, "a sequence with tokens has an engine"
        connection.drop(sequence.number)
        sequence.last = True
        if continuation.work is None:
            self._finish_early(sequence, continuation.reason)
            return
        heir = _Sequence(self, sequence.index, continuation.work)
        heir.continues = True
        self._sequences[sequence.index] = heir
        heir.start(connection)

    def _finish_early(self, sequence: _Sequence, reason: FinishReason) -> None:
        self._finish(sequence, Finished(sequence.number, reason, 0, 0))

    def _finish(self, sequence: _Sequence, event: Finished) -> None:
        sequence.last = True
        self._unfinished -= 1
        if sequence.index % self._answers_per_prompt == 0 and not sequence.continues:
            self.tally.cached_tokens += event.cached_tokens
        if self.over:
            return
        if event.reason is FinishReason.ABORT:
            self._fail(InternalError())
            return
        self._output.finished(sequence.index, event)
        if self._unfinished == 0:
            self.over = True
            self._output.end(self.tally)

    def _handle_failure(self, sequence: _Sequence, failed: Failed) -> None:
        sequence.last = True
        if self.over:
            return
        if sequence.continues and failed.kind is FailureKind.CONTEXT_LENGTH_EXCEEDED:
            self._finish_early(sequence, FinishReason.LENGTH)
            return
        may_retry = failed.kind in _RETRIABLE and self._may_restart(sequence)
        if may_retry and self._restart(sequence, failed.kind):
            return
        error = from_failure(failed)
        self._fail(self._name_error(error) if self._name_error is not None else error)

    def _move(self, sequence: _Sequence) -> None:
        """Away from an engine that has fallen silent, if another takes it; else it waits there."""
        silent, number = sequence.connection, sequence.number
        if self.over or sequence.last or not self._may_restart(sequence):
            return
        if self._restart(sequence, FailureKind.ENGINE_DEAD) and silent is not None:
            silent.drop(number)

    def _may_restart(self, sequence: _Sequence) -> bool:
        return not (sequence.has_output or sequence.continues) and sequence.attempts < MAX_ATTEMPTS

    def _restart(self, sequence: _Sequence, kind: FailureKind) -> bool:
        if sequence.connection is not None:
            sequence.avoid.add(sequence.connection.engine_id)
        model, adapter = self._route.engine_model, sequence.work.adapter
        try:
            connection = self._pool.pick_again(model, adapter, self, sequence.avoid, kind)
        except ApiError:
            return False
        if self._early is not None:
            self._early = [held for held in self._early if held[0] is not sequence]
        sequence.last = False
        sequence.start(connection)
        return True

    def _fail(self, error: ApiError) -> None:
        self.abort()
        self._output.fail(error)


def _token_bytes(logprobs: int | None) -> int:
    return _TOKEN_BYTES + (0 if logprobs is None else _LOGPROB_BYTES * (1 + logprobs))


def _too_large() -> InvalidRequest:
    return InvalidRequest(
        "The answer became larger than the server keeps (limits.max_answer_bytes). Please stream "
        "it, or ask for fewer tokens, answers or log probabilities.",
        code="answer_too_large",
    )
