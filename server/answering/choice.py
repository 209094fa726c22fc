"""One answer as it is read from the engine: text through the chat format's parser, tokens counted
as visible or reasoning, log probabilities kept until the text they belong to is out."""

from __future__ import annotations

from collections.abc import Sequence

from server.answering.budget import ThoughtLimit
from server.answering.stops import StopParser, StopStrings
from server.answering.token_places import TokenPlaces
from server.answering.tool_plan import ToolPlan
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
        "_parser",
        "_places",
        "_stops",
        "num_calls",
        "reasoning_tokens",
    )

    def __init__(
        self,
        parser: OutputParser,
        opens_reasoning: bool,
        limit: ThoughtLimit | None = None,
        stops: StopStrings | None = None,
        *,
        with_logprobs: bool = False,
    ) -> None:
        self._stops = None if stops is None else StopParser(parser, stops)
        self._parser = parser if self._stops is None else self._stops
        self._places = TokenPlaces() if with_logprobs else None
        self._limit = limit
        self._ids: list[int] = []
        """The output so far, kept where its thinking is limited."""
        self._in_reasoning = opens_reasoning
        self.num_calls = 0
        self.reasoning_tokens = 0

    def read(self, event: Token) -> Sequence[Delta]:
        if self._places is not None:
            self._places.add(event)
        if self._stops is not None:
            self._stops.count(len(event.token_ids))
        deltas = self._parser.feed(event.text)
        if len(deltas) == 1 and type(deltas[0]) is ContentDelta:
            self._in_reasoning = False
            return deltas
        was_reasoning = self._in_reasoning
        self._note(deltas)
        if (was_reasoning and (self._in_reasoning or not deltas)) or self._in_reasoning:
            self.reasoning_tokens += len(event.token_ids)
        return deltas

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met here, and not at the engine."""
        return self._stops is not None and self._stops.stopped

    @property
    def stop_met(self) -> str | None:
        return None if self._stops is None else self._stops.met

    def end_early(self, event: Token, work: Work) -> tuple[Sequence[Delta], Continuation | None]:
        """To be called after `read` where a plan `ends_early`: at a stop string nothing goes on;
        once a limit of thinking is reached, what the end of the thought lets out, and how the
        sequence goes on. Tokens without text may be half a character: the cut waits for the rest.
        """
        if self.stopped:
            return (), Continuation(None, 0, FinishReason.STOP)
        limit = self._limit
        if limit is None:
            return (), None
        self._ids += event.token_ids
        spent = self._in_reasoning and self.reasoning_tokens >= limit.max_tokens
        if not spent or not event.text:
            return (), None
        if self._places is not None:
            self._places.insert(limit.ending)
        deltas = self._parser.feed(limit.ending)
        self._note(deltas)
        self._in_reasoning = False
        self._ids += limit.ending_ids
        return deltas, limit.go_on(work, list(self._ids))

    def finish(self, event: Finished) -> Sequence[Delta]:
        deltas = self._parser.finish(event.reason is FinishReason.LENGTH)
        self._note(deltas)
        return deltas

    def take_logprobs(self, delta: ContentDelta | ReasoningDelta) -> list[TokenLogprob]:
        """Those of a text that was just read."""
        return [] if self._places is None else self._places.take(delta)

    def _note(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            self._in_reasoning = isinstance(delta, ReasoningDelta)
            if isinstance(delta, ToolCallStart):
                self.num_calls += 1


def finish_reason(event: Finished, reader: ChoiceReader, tools: ToolPlan) -> str:
    """A named function finishes with `stop`, as at OpenAI."""
    if event.reason is FinishReason.LENGTH and not reader.stopped:
        return "length"
    if reader.num_calls == 0 or (tools.named and not tools.legacy):
        return "stop"
    return "function_call" if tools.legacy else "tool_calls"
