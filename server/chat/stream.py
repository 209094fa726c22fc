"""A chat completion as server-sent events."""

from __future__ import annotations

from typing import assert_never

from server.answering.choice import finish_reason
from server.answering.plan import AnswerPlan
from server.chat.schemas import ChatCompletionRequest
from server.direct.keep_alive import KeepAlive
from server.direct.reply import Reply
from server.errors import ApiError
from server.generation.answers import AnswerId, chat_logprobs, to_json, tool_call_id
from server.generation.chunks import ChunkStream, chunk_head
from server.generation.output import Continuation
from server.usage import Tally
from templates.format import (
    ContentDelta,
    Delta,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallStart,
)
from workers.contract.messages import Finished, PromptScored, Token

_FIRST = b'{"role":"assistant","content":"","refusal":null}'


class ChatStream:
    """An exchange's `Output`."""

    is_kept = False

    def __init__(
        self,
        body: ChatCompletionRequest,
        plan: AnswerPlan,
        reply: Reply,
        keep_alive: KeepAlive,
        answer: AnswerId | None = None,
    ) -> None:
        """`answer` is its id where somebody else has it too."""
        self._plan = plan
        self._reply = reply
        self._shows_reasoning = body.include_reasoning is not False
        self._with_logprobs = plan.request.logprobs is not None
        self._readers = [plan.reader() for _ in plan.works]
        self._ends_early = plan.ends_early
        self.call_ids: dict[tuple[int, int], str] = {}
        """By the answer's index, and the call's in it."""
        answer = answer or AnswerId("chatcmpl-", body.model, plan.served.hello)
        head = chunk_head(answer, "chat.completion.chunk", tier="default")
        self._chunks = ChunkStream(reply, keep_alive, body.stream_options, head, "delta")
        self._is_plain = not (self._chunks.obfuscates or self._with_logprobs)
        self._around_content = [
            self._chunks.record(index, b'{"content":\0}').split(b"\0")
            for index in range(len(plan.works) if self._is_plain else 0)
        ]

    def begin(self) -> None:
        count = len(self._readers)
        first = b"".join([self._chunks.record(index, _FIRST) for index in range(count)])
        self._chunks.start(self._plan.served, first)

    def scored(self, index: int, event: PromptScored) -> None:
        """Chat completions have no prompt log probabilities; none are asked for."""

    def token(self, index: int, event: Token) -> Continuation | None:
        for delta in self._readers[index].read(event):
            if self._is_plain and type(delta) is ContentDelta:
                before, after = self._around_content[index]
                self._reply.write(before + to_json(delta.text) + after)
            else:
                self._write_delta(index, delta)
        if not self._ends_early:
            return None
        deltas, continuation = self._readers[index].end_early(event, self._plan.works[index])
        for delta in deltas:
            self._write_delta(index, delta)
        return continuation

    def finished(self, index: int, event: Finished) -> None:
        reader = self._readers[index]
        for delta in reader.finish(event):
            self._write_delta(index, delta)
        reason = finish_reason(event, reader, self._plan.tools)
        self._chunks.write(index, b"{}", finish=to_json(reason))

    def end(self, tally: Tally) -> None:
        tally.reasoning_tokens = sum(reader.reasoning_tokens for reader in self._readers)
        self._chunks.end(tally)

    def fail(self, error: ApiError) -> None:
        self._chunks.fail(error)

    def _write_delta(self, index: int, delta: Delta) -> None:
        match delta:
            case ContentDelta(text):
                data = b'{"content":' + to_json(text) + b"}"
                self._chunks.write(index, data, self._logprobs(index, delta))
            case ReasoningDelta(text):
                if self._shows_reasoning:
                    data = to_json({"reasoning_content": text, "reasoning": text})
                    self._chunks.write(index, data, self._logprobs(index, delta))
            case ToolCallStart(number, name, call_id):
                self._start_call(index, number, name, call_id)
            case ToolArgumentsDelta(number, text):
                self._continue_call(index, number, text)
            case _:
                assert_never(delta)

    def _start_call(self, index: int, number: int, name: str, call_id: str | None) -> None:
        if self._plan.tools.legacy:
            if number == 0:
                self._chunks.write(
                    index, to_json({"function_call": {"name": name, "arguments": ""}})
                )
            return
        self.call_ids[index, number] = call_id or tool_call_id()
        call = {
            "index": number,
            "id": self.call_ids[index, number],
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }
        self._chunks.write(index, to_json({"tool_calls": [call]}))

    def _continue_call(self, index: int, number: int, text: str) -> None:
        if self._plan.tools.legacy:
            if number == 0:
                self._chunks.write(index, to_json({"function_call": {"arguments": text}}))
            return
        self._chunks.write(
            index, to_json({"tool_calls": [{"index": number, "function": {"arguments": text}}]})
        )

    def _logprobs(self, index: int, delta: ContentDelta | ReasoningDelta) -> bytes:
        if not self._with_logprobs:
            return b"null"
        taken = self._readers[index].take_logprobs(delta)
        if not taken:
            return b"null"
        is_content = isinstance(delta, ContentDelta)
        return to_json(chat_logprobs(taken) if is_content else chat_logprobs(None, taken))
