"""Whole answers, folded from the same events that a stream is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import msgspec

from server.answering.choice import ChoiceReader, finish_reason
from server.answering.plan import AnswerPlan
from server.generation.answers import tool_call_id
from server.generation.output import Continuation
from server.usage import Tally
from templates.format import (
    ContentDelta,
    Delta,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallStart,
)
from workers.contract.messages import Finished, PromptScored, Token, TokenLogprob


class FoldedCall(msgspec.Struct):
    id: str
    name: str
    pieces: list[str] = []

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


class FoldedAnswer(msgspec.Struct):
    reader: ChoiceReader
    content: list[str] = []
    reasoning: list[str] = []
    calls: list[FoldedCall] = []
    logprobs: list[TokenLogprob] = []
    reasoning_logprobs: list[TokenLogprob] = []
    finish_reason: str = "stop"
    """As chat names it."""

    def take(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            match delta:
                case ContentDelta(text):
                    self.content.append(text)
                    self.logprobs += self.reader.take_logprobs(delta)
                case ReasoningDelta(text):
                    self.reasoning.append(text)
                    self.reasoning_logprobs += self.reader.take_logprobs(delta)
                case ToolCallStart(_, name, call_id):
                    self.calls.append(FoldedCall(call_id or tool_call_id(), name))
                case ToolArgumentsDelta(number, text):
                    self.calls[number].pieces.append(text)
                case _:
                    assert_never(delta)


class AnswerFold:
    """Most of an exchange's `Output` for what is sent as a whole: who extends it adds `end` and
    `fail`."""

    is_kept = True

    def __init__(self, plan: AnswerPlan) -> None:
        self.plan = plan
        self.answers = [FoldedAnswer(plan.reader()) for _ in plan.works]

    def begin(self) -> None:
        """The whole answer is sent at its end."""

    def scored(self, index: int, event: PromptScored) -> None:
        """Conversations have no prompt log probabilities; none are asked for."""

    def token(self, index: int, event: Token) -> Continuation | None:
        answer = self.answers[index]
        answer.take(answer.reader.read(event))
        if not self.plan.ends_early:
            return None
        deltas, continuation = answer.reader.end_early(event, self.plan.works[index])
        answer.take(deltas)
        return continuation

    def finished(self, index: int, event: Finished) -> None:
        answer = self.answers[index]
        answer.take(answer.reader.finish(event))
        answer.finish_reason = finish_reason(event, answer.reader, self.plan.tools)

    def count_reasoning(self, tally: Tally) -> None:
        """To be called at the end."""
        tally.reasoning_tokens = sum(answer.reader.reasoning_tokens for answer in self.answers)
