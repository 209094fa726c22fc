"""A chat completion as one JSON object, folded from the same events that a stream is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import msgspec

from server.chat.choice import ChoiceReader, finish_reason
from server.chat.plan import ChatPlan
from server.direct.reply import Reply, model_header
from server.errors import ApiError
from server.generation.answers import AnswerId, chat_logprobs, to_json, tool_call_id, usage_json
from server.generation.exchange import Continuation
from server.usage import Tally
from templates.format import (
    ContentDelta,
    Delta,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallStart,
)
from workers.contract.messages import Finished, PromptScored, Token, TokenLogprob


class _Call(msgspec.Struct):
    id: str
    name: str
    arguments: list[str] = []

    def function(self) -> dict[str, str]:
        return {"name": self.name, "arguments": "".join(self.arguments)}


class _Choice(msgspec.Struct):
    reader: ChoiceReader
    content: list[str] = []
    reasoning: list[str] = []
    calls: list[_Call] = []
    logprobs: list[TokenLogprob] = []
    reasoning_logprobs: list[TokenLogprob] = []
    finish_reason: str = "stop"

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
                    self.calls.append(_Call(call_id or tool_call_id(), name))
                case ToolArgumentsDelta(number, text):
                    self.calls[number].arguments.append(text)
                case _:
                    assert_never(delta)


class ChatFold:
    """An exchange's `Output`."""

    is_kept = True

    def __init__(self, plan: ChatPlan, reply: Reply) -> None:
        self._plan = plan
        self._reply = reply
        self._shows_reasoning = plan.request.include_reasoning is not False
        self._answer = AnswerId("chatcmpl-", plan.request.model, plan.served.hello)
        self._choices = [_Choice(plan.reader()) for _ in plan.works]

    def begin(self) -> None:
        """The whole answer is sent at its end."""

    def scored(self, index: int, event: PromptScored) -> None:
        """Chat completions have no prompt log probabilities; none are asked for."""

    def token(self, index: int, event: Token) -> Continuation | None:
        choice = self._choices[index]
        choice.take(choice.reader.read(event))
        if not self._plan.ends_early:
            return None
        deltas, continuation = choice.reader.end_early(event, self._plan.works[index])
        choice.take(deltas)
        return continuation

    def finished(self, index: int, event: Finished) -> None:
        choice = self._choices[index]
        choice.take(choice.reader.finish(event))
        choice.finish_reason = finish_reason(event, choice.reader, self._plan.tools)

    def end(self, tally: Tally) -> None:
        tally.reasoning_tokens = sum(choice.reader.reasoning_tokens for choice in self._choices)
        answer, metadata = self._answer, self._plan.request.metadata
        body = (
            b'{"id":"%b","object":"chat.completion","created":%d,"model":%b,"choices":%b,'
            b'"usage":%b,"service_tier":"default","system_fingerprint":"%b"%b}'
        ) % (
            answer.id.encode(),
            answer.created,
            to_json(answer.model),
            to_json([self._body(index, choice) for index, choice in enumerate(self._choices)]),
            usage_json(tally),
            answer.fingerprint.encode(),
            b"" if metadata is None else b',"metadata":' + to_json(metadata),
        )
        self._reply.answer(200, body, (model_header(self._plan.served.model.id),))

    def fail(self, error: ApiError) -> None:
        self._reply.refuse(error)

    def _body(self, index: int, choice: _Choice) -> dict[str, Any]:
        logprobs = None
        if self._plan.request.logprobs:
            shown = (
                choice.reasoning_logprobs if self._shows_reasoning and choice.reasoning else None
            )
            logprobs = chat_logprobs(choice.logprobs, shown)
        return {
            "index": index,
            "message": self._message(choice),
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
        }

    def _message(self, choice: _Choice) -> dict[str, Any]:
        content = "".join(choice.content)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if choice.calls and not content else content,
            "refusal": None,
        }
        if choice.reasoning and self._shows_reasoning:
            reasoning = "".join(choice.reasoning)
            message["reasoning_content"] = reasoning
            message["reasoning"] = reasoning
        if choice.calls and self._plan.tools.legacy:
            message["function_call"] = choice.calls[0].function()
        elif choice.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": call.function()}
                for call in choice.calls
            ]
        return message
