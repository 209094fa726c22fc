"""One connection to one engine worker, shared by every request this gateway sends there.

Events are handed to their request by a direct call from the socket's reader: no queue and no task
stands between a token's arrival and its bytes on the caller's connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

import msgspec

from server.engines.adapter_sending import send_adapter
from workers.contract.codec import FrameError, FrameReader, decode_events, encode
from workers.contract.hello import PROTOCOL_VERSION, Hello
from workers.contract.messages import (
    Abort,
    AdapterMissing,
    AdapterWanted,
    Admitted,
    Authenticate,
    Event,
    Failed,
    FailureKind,
    Generate,
    Leaving,
    PromptScored,
    Stats,
    Token,
)
from workers.contract.parts import AdapterRef, Grammar, Media, Message, PromptPart, Sampling

logger = logging.getLogger(__name__)


_ENGINE_LOST = "The engine that served this request stopped. Please retry."
_CONTINUING = (Token, Admitted, PromptScored)
"""Events after which more follow for the same request."""
_OF_THE_WORKER = (Stats, Hello, AdapterWanted, Leaving)
"""Events of no request."""
_IDLE = Stats(running=0, waiting=0, kv_usage=0.0)


class Silent(msgspec.Struct, frozen=True):
    """The worker says nothing any more: the request may be taken elsewhere. If it stays, its last
    event still comes, whether the worker speaks again or is given up."""

    id: int


EventSink = Callable[[Event | Silent], None]


class EngineUnreachable(Exception):
    """The worker refused the connection, left it, or speaks another protocol."""


class Work(msgspec.Struct, frozen=True):
    """One sequence to generate; `Generate` without the id and the scope of the cache."""

    prompt: list[PromptPart | Media]
    sampling: Sampling
    adapter: AdapterRef | None = None
    grammar: Grammar | None = None


class EngineConnection(asyncio.Protocol):
    """Every sink given to `generate` or `ask` gets exactly one last event: `Finished`, `Failed` or
    a reply; when the connection breaks, a `Failed` of kind `engine_dead`."""

    def __init__(self, engine_id: str, model_id: str, token: str | None) -> None:
        self.engine_id = engine_id
        self.model_id = model_id
        self.stats = _IDLE
        self.closed = False
        self.leaving = False
        """The worker takes no new request and goes when those under way have ended."""
        self.num_adapters_sent = 0
        self.silent_s = 0.0
        """Since the last report; counted by whoever owns the connection."""
        self.hangs = False
        """The worker has been silent for so long that it gets no new request."""
        self._token = token
        self._hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._frames = FrameReader()
        self._sinks: dict[int, EventSink] = {}
        self._last_id = 0
        self._outgoing: list[Message] = []
        """What is sent at the end of this turn of the event loop, in one frame."""
        self._num_of_others = 0
        self._asked: dict[str, int] = {}
        """Adapters named since, that no report has shown yet, by how many reports ago."""
        self._named: dict[str, AdapterRef] = {}
        """What the worker may ask the files of: only adapters that it was told of here."""
        self._sending: set[asyncio.Task[None]] = set()
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def num_requests(self) -> int:
        """Requests of this process under way here."""
        return len(self._sinks)

    @property
    def load(self) -> int:
        """All requests under way here, those of other gateways as of the last report."""
        return len(self._sinks) + self._num_of_others

    def holds(self, adapter: str) -> bool:
        return adapter in self.stats.adapters or adapter in self._asked

    @property
    def has_free_place(self) -> bool:
        return len(self.stats.adapters) + len(self._asked) < self.hello.max_loras

    @property
    def hello(self) -> Hello:
        return self._hello.result()

    async def opened(self) -> Hello:
        """Raises EngineUnreachable if the worker leaves before its hello."""
        return await asyncio.shield(self._hello)

    def generate(
        self, work: Work, sink: EventSink, cache_scope: str, *, is_spare: bool = False
    ) -> int:
        """Starts a sequence; returns the id to abort it by."""
        number = self._register(sink)
        if work.adapter is not None:
            self._name(work.adapter)
        self._send(
            Generate(
                number,
                work.prompt,
                work.sampling,
                work.adapter,
                work.grammar,
                cache_scope,
                is_spare,
            )
        )
        return number

    def abort(self, number: int) -> None:
        """The sink still gets the sequence's last event."""
        if number in self._sinks:
            self._send(Abort(number))

    def drop(self, number: int) -> None:
        """Aborts a sequence of which nothing more is to be heard."""
        if number in self._sinks:
            self._sinks[number] = _ignore
            self._send(Abort(number))

    async def ask(self, message: Callable[[int], Message]) -> Event:
        """Sends `message(id)` and waits for its one reply, which may be `Failed`."""
        reply: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

        def settle(event: Event | Silent) -> None:
            if isinstance(event, Silent):
                self._sinks[event.id] = _ignore
                event = Failed(event.id, FailureKind.ENGINE_DEAD, _ENGINE_LOST)
            if not reply.done():
                reply.set_result(event)

        number = self._register(settle)
        request = message(number)
        adapter = getattr(request, "adapter", None)
        if isinstance(adapter, AdapterRef):
            self._name(adapter)
        self._send(request)
        return await reply

    def tell(self, message: Callable[[int], Message]) -> None:
        """Sends `message(id)`; nobody waits for the reply."""
        self._send(message(self._register(_ignore)))

    def close(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def report_silence(self) -> None:
        """To every request under way, once for each time that the worker falls silent."""
        self.hangs = True
        for number, sink in list(self._sinks.items()):
            try:
                sink(Silent(number))
            except Exception:
                logger.exception("request handler failed on an engine's silence")

    def abandon(self) -> None:
        """Gives up on a worker that does not answer: what is under way there has failed."""
        self.connection_lost(EngineUnreachable("the worker is silent"))
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        if self._token is not None:
            self._send(Authenticate(self._token))

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                for event in decode_events(body):
                    self._deliver(event)
        except FrameError as error:
            logger.error("engine sent a broken frame", extra={"engine": self.engine_id})
            self.connection_lost(error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.closed:
            return
        self.closed = True
        for task in self._sending:
            task.cancel()
        if not self._hello.done():
            self._hello.set_exception(EngineUnreachable(str(exc or "connection closed")))
            self._hello.exception()
        for number in list(self._sinks):
            self._deliver(Failed(number, FailureKind.ENGINE_DEAD, _ENGINE_LOST))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _name(self, adapter: AdapterRef) -> None:
        self._named[adapter.name] = adapter
        if adapter.name not in self.stats.adapters:
            self._asked[adapter.name] = 0

    def _register(self, sink: EventSink) -> int:
        self._last_id += 1
        self._sinks[self._last_id] = sink
        return self._last_id

    def _send(self, message: Message) -> None:
        """With all else of this turn of the event loop: a system call costs as much as planning a
        request. On a connection that is gone the sinks have their `Failed` or are about to get
        it."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(message)

    def _flush(self) -> None:
        messages, self._outgoing = self._outgoing, []
        if not messages or self._transport is None or self.closed:
            return
        try:
            frame = encode(messages)
        except Exception:
            self._send_apart(messages, self._transport)
        else:
            self._transport.write(frame)

    def _send_apart(self, messages: list[Message], transport: asyncio.Transport) -> None:
        """One of them has no form on the wire; the others of its frame must not suffer."""
        for message in messages:
            try:
                transport.write(encode([message]))
            except Exception:
                logger.exception("message cannot be sent", extra={"engine": self.engine_id})
                number = getattr(message, "id", 0)
                self._deliver(Failed(number, FailureKind.INTERNAL, "The request cannot be sent."))

    def _deliver(self, event: Event) -> None:
        """A fault in one request's handling must not reach the others on the connection."""
        if isinstance(event, _CONTINUING):
            sink = self._sinks.get(event.id)
        elif isinstance(event, _OF_THE_WORKER):
            self._hear(event)
            return
        else:
            sink = self._sinks.pop(event.id, None)
        if sink is not None:
            try:
                sink(event)
            except Exception:
                logger.exception("request handler failed on an engine event")

    def _hear(self, event: Stats | Hello | AdapterWanted | Leaving) -> None:
        match event:
            case Stats():
                self._take_report(event)
            case Hello():
                self._greet(event)
            case AdapterWanted():
                self._supply(event)
            case Leaving():
                self.leaving = True

    def _greet(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            reason = f"worker speaks protocol {hello.protocol}, this gateway {PROTOCOL_VERSION}"
            self.connection_lost(EngineUnreachable(reason))
            self.close()
        elif not self._hello.done():
            self._hello.set_result(hello)

    def _take_report(self, stats: Stats) -> None:
        """A report may have crossed the request that named an adapter; two have not."""
        self.stats = stats
        self.silent_s = 0.0
        self.hangs = False
        self._num_of_others = max(stats.running + stats.waiting - len(self._sinks), 0)
        if self._asked:
            resident = stats.adapters
            self._asked = {a: n + 1 for a, n in self._asked.items() if n == 0 and a not in resident}

    def _supply(self, wanted: AdapterWanted) -> None:
        adapter = self._named.get(wanted.name)
        if adapter is None:
            self._send(AdapterMissing(wanted.id))
            return
        self.num_adapters_sent += 1
        task = asyncio.create_task(send_adapter(adapter, wanted.id, self._send_when_writable))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send_when_writable(self, message: Message) -> None:
        await self._writable.wait()
        self._send(message)


def _ignore(_event: Event | Silent) -> None:
    pass
