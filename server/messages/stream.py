"""A message as Anthropic's server-sent events."""

from __future__ import annotations

from typing import Any, assert_never

from server.answering.plan import AnswerPlan
from server.direct.keep_alive import KeepAlive
from server.direct.reply import Reply, model_header
from server.errors import ApiError
from server.generation.answers import to_json, tool_call_id
from server.generation.output import Continuation
from server.messages.output import message_id, stop_fields, usage_fields
from server.messages.schemas import CreateMessage
from server.responses.thoughts import seal_thought
from server.sse import SSE_HEADERS, event
from server.usage import Tally
from templates.format import (
    ContentDelta,
    Delta,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallStart,
)
from workers.contract.messages import Finished, PromptScored, Token

_PING = event(b"ping", b'{"type":"ping"}')
_STOP = event(b"message_stop", b'{"type":"message_stop"}')


class MessageStream:
    """An exchange's `Output`. One block is open at a time."""

    is_kept = False

    def __init__(
        self, body: CreateMessage, plan: AnswerPlan, reply: Reply, keep_alive: KeepAlive
    ) -> None:
        self._body = body
        self._plan = plan
        self._reply = reply
        self._keep_alive = keep_alive
        self._reader = plan.reader()
        self._ends_early = plan.ends_early
        self._stop: dict[str, Any] = {}
        self._index = -1
        self._kind: str | None = None
        """Of the open block."""
        self._thought: list[str] = []
        self._before = b""
        """The record of a piece of text in the open block, up to the text."""

    def begin(self) -> None:
        """The prompt's tokens are counted by the engine, and told at the end."""
        message = {
            "id": message_id(self._body, self._plan),
            "type": "message",
            "role": "assistant",
            "model": self._body.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_fields(Tally()),
        }
        first = _make("message_start", {"message": message}) + _PING
        headers = (*SSE_HEADERS, model_header(self._plan.served.model.id))
        self._reply.start(200, headers, first)
        self._keep_alive.add(self._reply)

    def scored(self, index: int, event: PromptScored) -> None:
        """Messages have no prompt log probabilities; none are asked for."""

    def token(self, index: int, event: Token) -> Continuation | None:
        for delta in self._reader.read(event):
            if type(delta) is ContentDelta and self._kind == "text":
                self._reply.write(self._before + to_json(delta.text) + b"}}\n\n")
            else:
                self._write(delta)
        if not self._ends_early:
            return None
        deltas, continuation = self._reader.end_early(event, self._plan.works[index])
        for delta in deltas:
            self._write(delta)
        return continuation

    def finished(self, index: int, event: Finished) -> None:
        for delta in self._reader.finish(event):
            self._write(delta)
        self._close()
        self._stop = stop_fields(self._body, event, self._reader)

    def end(self, tally: Tally) -> None:
        tally.reasoning_tokens = self._reader.reasoning_tokens
        fields = {"delta": self._stop, "usage": usage_fields(tally)}
        self._reply.end(_make("message_delta", fields) + _STOP)

    def fail(self, error: ApiError) -> None:
        self._reply.refuse(error)

    def _write(self, delta: Delta) -> None:
        match delta:
            case ContentDelta(text):
                if self._kind != "text":
                    self._open({"type": "text", "text": "", "citations": None}, "text_delta")
                self._reply.write(self._before + to_json(text) + b"}}\n\n")
            case ReasoningDelta(text):
                if self._kind != "thinking":
                    block = {"type": "thinking", "thinking": "", "signature": ""}
                    self._open(block, "thinking_delta")
                self._thought.append(text)
                if self._body.shows_thoughts:
                    self._reply.write(self._before + to_json(text) + b"}}\n\n")
            case ToolCallStart(_, name, call_id):
                block = {"type": "tool_use", "id": call_id or tool_call_id(), "name": name}
                self._open({**block, "input": {}}, "input_json_delta")
            case ToolArgumentsDelta(_, text):
                self._reply.write(self._before + to_json(text) + b"}}\n\n")
            case _:
                assert_never(delta)

    def _open(self, block: dict[str, Any], delta: str) -> None:
        self._close()
        self._index += 1
        self._kind = block["type"]
        field = {"text_delta": "text", "thinking_delta": "thinking"}.get(delta, "partial_json")
        self._before = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":"%b","%b":' % (self._index, delta.encode(), field.encode())
        )
        fields = {"index": self._index, "content_block": block}
        self._reply.write(_make("content_block_start", fields))

    def _close(self) -> None:
        if self._kind is None:
            return
        last = _make("content_block_stop", {"index": self._index})
        if self._kind == "thinking":
            signature = seal_thought("".join(self._thought))
            delta = {"type": "signature_delta", "signature": signature}
            fields = {"index": self._index, "delta": delta}
            last = _make("content_block_delta", fields) + last
            self._thought = []
        self._reply.write(last)
        self._kind = None


def _make(kind: str, fields: dict[str, Any]) -> bytes:
    return event(kind.encode(), to_json({"type": kind, **fields}))
