"""One answer as it is read from the engine: text through the chat format's parser, tokens counted
as visible or reasoning, log probabilities kept until the content they belong to is out."""

from __future__ import annotations

from collections.abc import Sequence

from server.chat.budget import ThoughtLimit
from server.chat.tools import ToolPlan
from server.engines.client import Work
from server.generation.exchange import Continuation
from templates.format import (
    ContentDelta,
    Delta,
    OutputParser,
    ReasoningDelta,
    ToolCallStart,
)
from workers.contract.messages import Finished, FinishReason, Token, TokenLogprob


class ChoiceReader:
    """A token whose text is held back by the parser counts as what came before it."""

    __slots__ = (
        "_ids",
        "_in_reasoning",
        "_limit",
        "_logprobs",
        "_parser",
        "num_calls",
        "reasoning_tokens",
    )

    def __init__(
        self, parser: OutputParser, opens_reasoning: bool, limit: ThoughtLimit | None = None
    ) -> None:
        self._parser = parser
        self._limit = limit
        self._ids: list[int] = []
        """The output so far, kept where its thinking is limited."""
        self._in_reasoning = opens_reasoning
        self._logprobs: list[TokenLogprob] = []
        self.num_calls = 0
        self.reasoning_tokens = 0

    def read(self, event: Token) -> Sequence[Delta]:
        deltas = self._parser.feed(event.text)
        if event.logprobs is not None:
            self._logprobs += event.logprobs
        if len(deltas) == 1 and type(deltas[0]) is ContentDelta:
            self._in_reasoning = False
            return deltas
        was_reasoning = self._in_reasoning
        self._note(deltas)
        if (was_reasoning and (self._in_reasoning or not deltas)) or self._in_reasoning:
            self.reasoning_tokens += len(event.token_ids)
        return deltas

    def end_thought(self, event: Token, work: Work) -> tuple[Sequence[Delta], Continuation | None]:
        """To be called after `read` where thinking is limited: once the limit is reached, what the
        end of the thought lets out, and how the sequence goes on. Tokens without text may be half
        a character: the cut waits for the rest."""
        limit = self._limit
        if limit is None:
            return (), None
        self._ids += event.token_ids
        spent = self._in_reasoning and self.reasoning_tokens >= limit.max_tokens
        if not spent or not event.text:
            return (), None
        deltas = self._parser.feed(limit.ending)
        self._note(deltas)
        self._in_reasoning = False
        self._ids += limit.ending_ids
        return deltas, limit.go_on(work, list(self._ids))

    def finish(self) -> Sequence[Delta]:
        deltas = self._parser.finish()
        self._note(deltas)
        return deltas

    def take_logprobs(self) -> list[TokenLogprob]:
        """Those of the content that is out now."""
        taken, self._logprobs = self._logprobs, []
        return taken

    def _note(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            self._in_reasoning = isinstance(delta, ReasoningDelta)
            if isinstance(delta, ToolCallStart):
                self.num_calls += 1
            if not isinstance(delta, ContentDelta):
                self._logprobs.clear()


def finish_reason(event: Finished, reader: ChoiceReader, tools: ToolPlan) -> str:
    """A named function finishes with `stop`, as at OpenAI."""
    if event.reason is FinishReason.LENGTH:
        return "length"
    if reader.num_calls == 0 or (tools.named and not tools.legacy):
        return "stop"
    return "function_call" if tools.legacy else "tool_calls"
