"""A response as it is generated: sent as one object, or as events.

Either way the end repeats the whole answer, which is why it is all kept until then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from server.answering.plan import AnswerPlan
from server.direct.keep_alive import KeepAlive
from server.direct.reply import Reply, model_header
from server.errors import ApiError
from server.generation.answers import to_json
from server.generation.caller import Recipient
from server.generation.output import Continuation
from server.responses.events import EventWriter
from server.responses.ids import ItemIds
from server.responses.keeping import Place
from server.responses.objects import failed_response, usage_fields
from server.responses.output_items import OutputItems
from server.sse import SSE_HEADERS
from server.usage import Tally
from workers.contract.messages import Finished, FinishReason, PromptScored, Token


@dataclass(frozen=True, slots=True)
class BegunResponse:
    """A planned response that nothing has been generated of. `fields` are the response as it
    begins; `place` is where it is kept, if it is."""

    plan: AnswerPlan
    ids: ItemIds
    fields: dict[str, Any]
    place: Place | None
    seals_thoughts: bool


class _Response:
    """What both outputs have in common."""

    is_kept = True

    def __init__(self, begun: BegunResponse, events: EventWriter | None = None) -> None:
        plan = begun.plan
        self._plan = plan
        self._fields = begun.fields
        self._place = begun.place
        self._reader = plan.reader()
        self._ends_early = plan.ends_early
        self._items = OutputItems(
            begun.ids,
            self._reader,
            events,
            seals_thoughts=begun.seals_thoughts,
            with_logprobs=plan.request.logprobs is not None,
        )
        self._status = "completed"

    def scored(self, index: int, event: PromptScored) -> None:
        """Responses have no prompt log probabilities; none are asked for."""

    def token(self, index: int, event: Token) -> Continuation | None:
        self._items.take(self._reader.read(event))
        if not self._ends_early:
            return None
        deltas, continuation = self._reader.end_early(event, self._plan.works[index])
        self._items.take(deltas)
        return continuation

    def finished(self, index: int, event: Finished) -> None:
        self._items.take(self._reader.finish(event))
        if event.reason is FinishReason.LENGTH and not self._reader.stopped:
            self._status = "incomplete"

    def end(self, tally: Tally) -> None:
        tally.reasoning_tokens = self._reader.reasoning_tokens
        is_whole = self._status == "completed"
        response = {
            **self._fields,
            "status": self._status,
            "completed_at": int(time.time()) if is_whole else None,
            "incomplete_details": None if is_whole else {"reason": "max_output_tokens"},
            "output": self._items.finish(self._status),
            "usage": usage_fields(tally),
        }
        body = to_json(response)
        if self._place is None:
            self.send(self._status, body)
        else:
            when_kept = partial(self._when_kept, self._place, response, body)
            self._place.keep(response, body, when_kept)

    def _when_kept(
        self, place: Place, response: dict[str, Any], body: bytes, error: ApiError | None
    ) -> None:
        if error is None:
            self.send(self._status, body)
        elif place.is_asked:
            self.fail(error)
        else:
            self.send(self._status, to_json({**response, "store": False}))

    def send(self, status: str, body: bytes) -> None:
        """The whole answer, as JSON."""
        raise NotImplementedError

    def fail(self, error: ApiError) -> None:
        raise NotImplementedError


class ResponseFold(_Response):
    """An exchange's `Output`."""

    def __init__(self, begun: BegunResponse, recipient: Recipient) -> None:
        super().__init__(begun)
        self._recipient = recipient

    def begin(self) -> None:
        """The whole answer is sent at its end."""

    def send(self, status: str, body: bytes) -> None:
        self._recipient.answer(200, body, (model_header(self._plan.served.model.id),))

    def fail(self, error: ApiError) -> None:
        self._recipient.refuse(error)


class BackgroundOutput(_Response):
    """An exchange's `Output`: its events go to a log, and the whole is the caller's answer."""

    def __init__(
        self,
        begun: BegunResponse,
        events: EventWriter,
        recipient: Recipient,
        when_begun: Callable[[], None],
    ) -> None:
        super().__init__(begun, events)
        self._events = events
        self._recipient = recipient
        self._when_begun = when_begun

    def begin(self) -> None:
        self._events.send("response.in_progress", response=self._fields)
        self._when_begun()

    def send(self, status: str, body: bytes) -> None:
        self._recipient.answer(200, body)

    def fail(self, error: ApiError) -> None:
        output = self._items.break_off()
        self.send("failed", to_json(failed_response(self._fields, error, output)))


class ResponseStream(_Response):
    """An exchange's `Output`."""

    def __init__(
        self, begun: BegunResponse, reply: Reply, keep_alive: KeepAlive, *, obfuscates: bool
    ) -> None:
        self._events = EventWriter(reply.write, obfuscates=obfuscates)
        super().__init__(begun, self._events)
        self._reply = reply
        self._keep_alive = keep_alive
        self._begun = False

    def begin(self) -> None:
        self._begun = True
        first = b"".join(
            self._events.make(f"response.{kind}", {"response": self._fields})
            for kind in ("created", "in_progress")
        )
        headers = (*SSE_HEADERS, model_header(self._plan.served.model.id))
        self._reply.start(200, headers, first)
        self._keep_alive.add(self._reply)

    def send(self, status: str, body: bytes) -> None:
        fields = {"response": msgspec.Raw(body)}
        self._reply.end(self._events.make(f"response.{status}", fields))

    def fail(self, error: ApiError) -> None:
        """A response that has begun is kept as the failure it is, if that is possible."""
        if not self._begun:
            self._reply.refuse(error)
            return
        response = failed_response(self._fields, error, self._items.break_off())
        body = to_json(response)
        if self._place is not None:
            self._place.keep(response, body, _ignore)
        self.send("failed", body)


def _ignore(error: ApiError | None) -> None:
    """The caller is told of the failure that counts."""
