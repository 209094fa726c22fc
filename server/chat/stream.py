"""A chat completion as server-sent events.

The bytes around a piece of content are made once per choice; per token only the text is escaped.
"""

from __future__ import annotations

from typing import assert_never

from server.chat.choice import ChoiceReader, finish_reason
from server.chat.plan import ChatPlan
from server.errors import ApiError
from server.gate import Header
from server.generation.answers import (
    AnswerId,
    chat_logprobs,
    obfuscation,
    to_json,
    tool_call_id,
    usage_json,
)
from server.generation.exchange import Continuation
from server.sse import DONE, SSE_HEADERS, KeepAlive, Reply
from server.usage import Tally
from templates.format import (
    ContentDelta,
    Delta,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallStart,
)
from workers.contract.messages import Finished, PromptScored, Token

_EMPTY_USAGE = b',"usage":null'


class ChatStream:
    """An exchange's `Output`."""

    def __init__(self, plan: ChatPlan, reply: Reply, keep_alive: KeepAlive) -> None:
        request = plan.request
        options = request.stream_options
        self._plan = plan
        self._reply = reply
        self._keep_alive = keep_alive
        self._includes_usage = bool(options and options.include_usage)
        self._obfuscates = bool(options and options.include_obfuscation)
        self._shows_reasoning = request.include_reasoning is not False
        self._with_logprobs = bool(request.logprobs)
        self._readers = [
            ChoiceReader(plan.parser(), plan.prompt.opens_reasoning, plan.limit) for _ in plan.works
        ]
        answer = AnswerId("chatcmpl-", request.model, plan.served.hello)
        self._head = b"".join(
            (
                b'data: {"id":"',
                answer.id.encode(),
                b'","object":"chat.completion.chunk","created":%d,"model":' % answer.created,
                to_json(answer.model),
                b',"service_tier":"default","system_fingerprint":',
                to_json(answer.fingerprint),
                b',"choices":[',
            )
        )
        self._tail = b"]" + (_EMPTY_USAGE if self._includes_usage else b"")
        self._before_content = [
            self._head + b'{"index":%d,"delta":{"content":' % index
            for index in range(len(plan.works))
        ]
        self._after_content = b'},"logprobs":null,"finish_reason":null}' + self._tail + b"}\n\n"
        self._is_plain = not (self._obfuscates or self._with_logprobs)

    def begin(self) -> None:
        model: Header = (b"openai-model", self._plan.served.model.id.encode("latin-1", "replace"))
        self._reply.start(200, (*SSE_HEADERS, model))
        for index in range(len(self._readers)):
            self._write(index, b'{"role":"assistant","content":"","refusal":null}')
        self._keep_alive.add(self._reply)

    def scored(self, index: int, event: PromptScored) -> None:
        """Chat completions have no prompt log probabilities; none are asked for."""

    def token(self, index: int, event: Token) -> Continuation | None:
        for delta in self._readers[index].read(event):
            if self._is_plain and type(delta) is ContentDelta:
                self._reply.write(
                    self._before_content[index] + to_json(delta.text) + self._after_content
                )
            else:
                self._write_delta(index, delta)
        if self._plan.limit is None:
            return None
        deltas, continuation = self._readers[index].end_thought(event, self._plan.works[index])
        for delta in deltas:
            self._write_delta(index, delta)
        return continuation

    def finished(self, index: int, event: Finished) -> None:
        reader = self._readers[index]
        for delta in reader.finish():
            self._write_delta(index, delta)
        reason = finish_reason(event, reader, self._plan.tools)
        self._write(index, b"{}", finish=to_json(reason))

    def end(self, tally: Tally) -> None:
        tally.reasoning_tokens = sum(reader.reasoning_tokens for reader in self._readers)
        self._keep_alive.remove(self._reply)
        last = DONE
        if self._includes_usage:
            last = self._head + b'],"usage":' + usage_json(tally) + b"}\n\n" + DONE
        self._reply.end(last)

    def fail(self, error: ApiError) -> None:
        self._keep_alive.remove(self._reply)
        self._reply.refuse(error)

    def _write_delta(self, index: int, delta: Delta) -> None:
        match delta:
            case ContentDelta(text):
                logprobs = self._logprobs(index)
                self._write(index, b'{"content":' + to_json(text) + b"}", logprobs)
            case ReasoningDelta(text):
                if self._shows_reasoning:
                    data = to_json({"reasoning_content": text, "reasoning": text})
                    self._write(index, data)
            case ToolCallStart(number, name, call_id):
                self._start_call(index, number, name, call_id)
            case ToolArgumentsDelta(number, text):
                self._continue_call(index, number, text)
            case _:
                assert_never(delta)

    def _start_call(self, index: int, number: int, name: str, call_id: str | None) -> None:
        if self._plan.tools.legacy:
            if number == 0:
                self._write(index, to_json({"function_call": {"name": name, "arguments": ""}}))
            return
        call = {
            "index": number,
            "id": call_id or tool_call_id(),
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }
        self._write(index, to_json({"tool_calls": [call]}))

    def _continue_call(self, index: int, number: int, text: str) -> None:
        if self._plan.tools.legacy:
            if number == 0:
                self._write(index, to_json({"function_call": {"arguments": text}}))
            return
        self._write(
            index, to_json({"tool_calls": [{"index": number, "function": {"arguments": text}}]})
        )

    def _logprobs(self, index: int) -> bytes:
        if not self._with_logprobs:
            return b"null"
        taken = self._readers[index].take_logprobs()
        return to_json(chat_logprobs(taken)) if taken else b"null"

    def _write(
        self, index: int, delta: bytes, logprobs: bytes = b"null", finish: bytes = b"null"
    ) -> None:
        tail = self._tail
        if self._obfuscates:
            tail += b',"obfuscation":"' + obfuscation(len(delta)).encode() + b'"'
        self._reply.write(
            b"".join(
                (
                    self._head,
                    b'{"index":%d,"delta":' % index,
                    delta,
                    b',"logprobs":',
                    logprobs,
                    b',"finish_reason":',
                    finish,
                    b"}",
                    tail,
                    b"}\n\n",
                )
            )
        )
