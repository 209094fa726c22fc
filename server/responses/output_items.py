"""The items of a response as they are generated: reasoning, messages and function calls.

One item is open at a time; the next one closes it. With an `EventWriter`, every step is an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, assert_never

from server.generation.answers import list_logprobs, to_json, tool_call_id
from server.responses.events import EventWriter
from server.responses.ids import ItemIds
from server.responses.items import MAX_CALL_ID_CHARS
from server.responses.thoughts import seal_thought
from templates.format import ContentDelta, Delta, ReasoningDelta, ToolArgumentsDelta, ToolCallStart
from workers.contract.messages import TokenLogprob

_NO_LOGPROBS = b"[]"


class LogprobSource(Protocol):
    def take_logprobs(self, delta: ContentDelta | ReasoningDelta) -> list[TokenLogprob]:
        """Those of a text that was just read."""
        ...


class _Item:
    """An item while it is open. `text` is what its deltas bring."""

    delta_kind = ""
    has_part = True

    def __init__(self, item_id: str) -> None:
        self.id = item_id
        self.pieces: list[str] = []
        self.head = b""

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def part(self) -> dict[str, Any]:
        """Its content part as it is so far."""
        raise NotImplementedError

    def as_json(self, status: str) -> dict[str, Any]:
        raise NotImplementedError

    def ending(self) -> tuple[str, dict[str, Any]]:
        """The event that gives the whole text."""
        raise NotImplementedError


class _Message(_Item):
    delta_kind = "response.output_text.delta"

    def __init__(self, item_id: str) -> None:
        super().__init__(item_id)
        self.logprobs: list[dict[str, Any]] = []

    def part(self) -> dict[str, Any]:
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": self.logprobs,
        }

    def as_json(self, status: str) -> dict[str, Any]:
        content = [self.part()] if status != "in_progress" else []
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def ending(self) -> tuple[str, dict[str, Any]]:
        return "response.output_text.done", {"text": self.text, "logprobs": self.logprobs}


class _Thought(_Item):
    delta_kind = "response.reasoning_text.delta"

    def __init__(self, item_id: str, seals: bool) -> None:
        super().__init__(item_id)
        self._seals = seals

    def part(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": self.text}

    def as_json(self, status: str) -> dict[str, Any]:
        is_open = status == "in_progress"
        item: dict[str, Any] = {
            "id": self.id,
            "type": "reasoning",
            "summary": [],
            "content": [] if is_open else [self.part()],
            "status": status,
        }
        if self._seals:
            item["encrypted_content"] = None if is_open else seal_thought(self.text)
        return item

    def ending(self) -> tuple[str, dict[str, Any]]:
        return "response.reasoning_text.done", {"text": self.text}


class _Call(_Item):
    delta_kind = "response.function_call_arguments.delta"
    has_part = False

    def __init__(self, item_id: str, call_id: str, name: str) -> None:
        super().__init__(item_id)
        self._call_id = call_id
        self._name = name

    def as_json(self, status: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "function_call",
            "call_id": self._call_id,
            "name": self._name,
            "arguments": self.text,
            "status": status,
        }

    def ending(self) -> tuple[str, dict[str, Any]]:
        return (
            "response.function_call_arguments.done",
            {"name": self._name, "arguments": self.text},
        )


class OutputItems:
    def __init__(
        self,
        ids: ItemIds,
        source: LogprobSource,
        events: EventWriter | None,
        *,
        seals_thoughts: bool,
        with_logprobs: bool,
    ) -> None:
        self._ids = ids
        self._source = source
        self._events = events
        self._seals_thoughts = seals_thoughts
        self._with_logprobs = with_logprobs
        self._open: _Item | None = None
        self._closed: list[dict[str, Any]] = []

    def take(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            item = self._open
            if type(delta) is ContentDelta and type(item) is _Message and not self._with_logprobs:
                self._add(item, delta.text, _NO_LOGPROBS)
                continue
            match delta:
                case ContentDelta(text):
                    self._say(text, delta)
                case ReasoningDelta(text):
                    if not isinstance(item, _Thought):
                        item = self._begin(_Thought(self._ids.output("rs"), self._seals_thoughts))
                    self._add(item, text)
                case ToolCallStart(_, name, call_id):
                    item_id = self._ids.output("fc")
                    if not call_id or len(call_id) > MAX_CALL_ID_CHARS:
                        call_id = tool_call_id()
                    self._begin(_Call(item_id, call_id, name))
                case ToolArgumentsDelta(_, text):
                    assert isinstance(self._open, _Call), "arguments follow their call's start"
                    self._add(self._open, text)
                case _:
                    assert_never(delta)

    def finish(self, status: str) -> list[dict[str, Any]]:
        """All items; the last one ends with `status`. An answer of nothing is an empty message."""
        if self._open is None and not self._closed:
            self._begin(_Message(self._ids.output("msg")))
        self._close(status)
        return self._closed

    def break_off(self) -> list[dict[str, Any]]:
        """All items of an answer that failed, without a word of their end."""
        if self._open is not None:
            self._closed.append(self._open.as_json("incomplete"))
            self._open = None
        return self._closed

    def _say(self, text: str, delta: ContentDelta) -> None:
        item = self._open
        if not isinstance(item, _Message):
            item = self._begin(_Message(self._ids.output("msg")))
        assert isinstance(item, _Message)
        logprobs = _NO_LOGPROBS
        if self._with_logprobs:
            taken = list_logprobs(self._source.take_logprobs(delta))
            item.logprobs += taken
            logprobs = to_json(taken)
        self._add(item, text, logprobs)

    def _add(self, item: _Item, text: str, logprobs: bytes | None = None) -> None:
        item.pieces.append(text)
        if self._events is not None:
            self._events.send_delta(item.head, text, logprobs)

    def _begin(self, item: _Item) -> _Item:
        self._close("completed")
        self._open = item
        events, index = self._events, len(self._closed)
        if events is None:
            return item
        item.head = events.delta_head(item.delta_kind, item.id, index, of_part=item.has_part)
        events.send(
            "response.output_item.added", output_index=index, item=item.as_json("in_progress")
        )
        if item.has_part:
            events.send("response.content_part.added", **self._place(item), part=item.part())
        return item

    def _close(self, status: str) -> None:
        item = self._open
        if item is None:
            return
        whole = item.as_json(status)
        events = self._events
        if events is not None:
            kind, fields = item.ending()
            events.send(kind, **self._place(item), **fields)
            if item.has_part:
                events.send("response.content_part.done", **self._place(item), part=item.part())
            events.send("response.output_item.done", output_index=len(self._closed), item=whole)
        self._closed.append(whole)
        self._open = None

    def _place(self, item: _Item) -> dict[str, Any]:
        place = {"item_id": item.id, "output_index": len(self._closed)}
        return {**place, "content_index": 0} if item.has_part else place
