"""A legacy completion as server-sent events; chunks have the shape of the whole answer."""

from __future__ import annotations

from server.completions.plan import CompletionPlan
from server.completions.text import LegacyLogprobs
from server.direct.keep_alive import KeepAlive
from server.direct.reply import Reply
from server.errors import ApiError
from server.generation.answers import AnswerId, to_json
from server.generation.chunks import ChunkStream, chunk_head
from server.usage import Tally
from workers.contract.messages import Finished, PromptScored, Token


class CompletionStream:
    """An exchange's `Output`."""

    is_kept = False

    def __init__(self, plan: CompletionPlan, reply: Reply, keep_alive: KeepAlive) -> None:
        self._plan = plan
        self._logprobs = (
            None if plan.request.logprobs is None else [LegacyLogprobs() for _ in plan.works]
        )
        answer = AnswerId("cmpl-", plan.request.model, plan.served.hello)
        head = chunk_head(answer, "text_completion")
        self._chunks = ChunkStream(reply, keep_alive, plan.request.stream_options, head, "text")

    def begin(self) -> None:
        """An echo with log probabilities waits for these."""
        echoes = (
            [] if self._logprobs is not None else map(self._plan.echo, range(len(self._plan.works)))
        )
        first = [self._chunks.record(i, to_json(echo)) for i, echo in enumerate(echoes) if echo]
        self._chunks.start(self._plan.served, b"".join(first))

    def scored(self, index: int, event: PromptScored) -> None:
        if self._logprobs is not None:
            plan, echo = self._plan, self._plan.echo(index)
            words = plan.served.hello.special_tokens
            self._logprobs[index].add_prompt(event.tokens, echo, words)
            self._write(index, echo)

    def token(self, index: int, event: Token) -> None:
        if self._logprobs is not None and event.logprobs is not None:
            self._logprobs[index].add(event.logprobs)
        if event.text:
            self._write(index, event.text)

    def finished(self, index: int, event: Finished) -> None:
        self._write(index, "", to_json(event.reason.value))

    def end(self, tally: Tally) -> None:
        self._chunks.end(tally)

    def fail(self, error: ApiError) -> None:
        self._chunks.fail(error)

    def _write(self, index: int, text: str, finish: bytes = b"null") -> None:
        logprobs = b"null"
        if self._logprobs is not None and len(self._logprobs[index]):
            logprobs = to_json(self._logprobs[index].take())
        self._chunks.write(index, to_json(text), logprobs, finish)
