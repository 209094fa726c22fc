"""uvicorn's HTTP/1.1 protocol, with a way of its own for direct requests, and with limits on what
a connection may cost."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Any, Protocol, cast
from urllib.parse import unquote

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from server.config import Limits
from server.direct.connections import Connections, Ended
from server.direct.desk import Desk
from server.direct.heads import (
    LOOKED_AT,
    MAX_HEAD_BYTES,
    OF_ORIGIN_OR_CODING,
    PROBES,
    check_framing,
    check_size,
    check_version,
)
from server.direct.patience import Patience
from server.direct.request import DirectRequest
from server.direct.upgrades import without_upgrade
from server.errors import ApiError, HeadTooLarge, InvalidRequest

_MAX_PIPELINED = 64


class GatewayProtocol(HttpToolsProtocol):
    """Handles a direct request when all that was read has been parsed: its body is then mostly
    there, and nothing has to be waited for.

    `self.cycle` is, as at uvicorn, the newest request, and `self.running` the one whose turn it
    is; those between wait in `self.pipeline`.
    """

    # uvicorn declares its own kinds.
    parser: Any
    cycle: Any
    pipeline: deque[tuple[Any, Any]]

    def __init__(
        self,
        desk: Desk,
        connections: Connections,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._desk = desk
        self._table = connections
        self._patience = Patience(self, config.timeout_keep_alive)
        self._due: DirectRequest | None = None
        self._offers_upgrade = False
        """Whether the head just parsed does; it is parsed again without."""
        self._read_bytes = self._head_bytes = self._first_bytes = self._unframed_bytes = 0
        """Of this read; of all reads that have something of the head; of the first of them; of
        the last ones that brought nothing of a body."""
        self._has_origin_or_coding = False
        self._fault: ApiError | None = None
        """Why nothing more is read. It is answered when all before it has been."""
        self._high_water = 0
        self.running: Any = None
        self.is_extra = False
        self.in_head = False
        self.in_body = False
        self.body_bytes = 0
        self.ended_by_caller = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._patience.open(self.loop.time())
        if not self._table.add(self):
            self._refuse(self._table.refusal())

    def connection_lost(self, exc: Exception | None) -> None:
        self._table.remove(self)
        for request in (self.running, None if self.cycle is self.running else self.cycle):
            if isinstance(request, DirectRequest):
                request.lose()
            elif request is not None:
                request.disconnected = True
                request.message_event.set()
        self.cycle = self.running = self._due = None
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._fault is not None:
            return
        self._read_bytes = len(data)
        if self.in_head:
            self._head_bytes += len(data)
        before = self.body_bytes if self.in_body else None
        try:
            self._parse(data)
            if self.in_head or self.in_body:
                self._await_rest(before)
            else:
                self._patience.rest_since = None
        except (httptools.HttpParserError, ApiError) as error:
            cause = error if isinstance(error, ApiError) else error.__context__
            known = cause if isinstance(cause, ApiError) else None
            self.fail(known or InvalidRequest("Invalid HTTP request received."))
        due, self._due = self._due, None
        if due is not None:
            self._receive(due)

    def _parse(self, data: bytes) -> None:
        """Raises HttpParserError. A server may ignore `Upgrade` (RFC 9110, 7.8). The parser will
        not: it takes what follows such a head for another protocol's. It is given the head again,
        without the offer, and then the body."""
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                rest = data[offer.args[0] :]
                if not self._offers_upgrade:
                    raise httptools.HttpParserError("a tunnel is asked for") from offer
                data = without_upgrade(self.parser, self.url, self.headers) + rest

    def _await_rest(self, body_bytes: int | None) -> None:
        """`body_bytes` had come before this read. The parser keeps what it has of a header or of a
        trailer, however long it is. Raises HeadTooLarge."""
        if self.in_head and self._head_bytes - self._first_bytes > MAX_HEAD_BYTES:
            raise HeadTooLarge()
        brought_nothing = body_bytes == self.body_bytes
        self._unframed_bytes = self._unframed_bytes + self._read_bytes if brought_nothing else 0
        if self._unframed_bytes > MAX_HEAD_BYTES:
            raise HeadTooLarge()
        self._patience.rest(self.loop.time(), self.body_bytes)

    def fail(self, error: ApiError) -> None:
        """Nothing more is read. A request of which a part has come is answered by `error`; else it
        comes after the answers to those that are whole."""
        self._fault = error
        self._patience.rest_since = None
        broken = self.cycle if self.in_body else None
        self.in_head = self.in_body = False
        if broken is not None and any(broken is waiting for waiting, _ in self.pipeline):
            self.pipeline.popleft()
        elif broken is not None:
            self._end_broken(broken, error)
        elif not self.is_busy:
            self._refuse(error)

    def _end_broken(self, broken: Any, error: ApiError) -> None:
        is_due, self._due = broken is self._due, None
        if isinstance(broken, DirectRequest) and not (is_due or broken.response_complete):
            broken.spoil(error)
            return
        if isinstance(broken, DirectRequest):
            has_begun = broken.response_complete
        else:
            has_begun = broken.response_started
            broken.disconnected = True
            broken.message_event.set()
        if has_begun:
            self.transport.close()
        else:
            self._refuse(error)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's own is plain text, without a request id."""
        self._refuse(InvalidRequest(msg))

    def _refuse(self, error: ApiError) -> None:
        """Of a request that is not read; the connection is of no more use."""
        self._fault = error
        self._desk.refuse(self, error)

    def eof_received(self) -> bool:  # type: ignore[override]
        """A caller who has ended his side may wait for his answer or be gone: writing will tell."""
        if self.in_body or not self.is_busy:
            return False
        self.ended_by_caller = True
        self._patience.probe()
        return True

    def on_message_begin(self) -> None:
        """The scope is left to requests that need one."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._offers_upgrade = self._has_origin_or_coding = False
        self.in_head = True
        self._patience.rest_since = None
        self._head_bytes = self._first_bytes = self._read_bytes
        self._unframed_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_head:
            return  # a trailer
        name = name.lower()
        if name in LOOKED_AT:
            check_framing(name, value, self.headers)
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            elif name in OF_ORIGIN_OR_CODING:
                self._has_origin_or_coding = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.in_head = False
        if self._head_bytes > MAX_HEAD_BYTES:
            check_size(self.url, self.headers)
        parser = self.parser
        version = parser.get_http_version()
        check_version(version)
        if parser.should_upgrade() and parser.get_method() != b"CONNECT":
            self._offers_upgrade = True
            return
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise InvalidRequest("Too many requests wait on one connection.")
        self.body_bytes = 0
        self._patience.rest_since = None
        if self.is_extra:
            self._admit_probe()
        self._table.occupy(self)
        path = self._direct_path()
        if path is None:
            self._make_scope()
            super().on_headers_complete()
            if self.is_extra:
                self.cycle.keep_alive = False
        else:
            self._begin_direct(path, is_http_1_1=version == "1.1")
        self.in_body = True

    def _begin_direct(self, path: str, *, is_http_1_1: bool) -> None:
        request = DirectRequest(
            self,
            path,
            self.headers,
            is_http_1_1=is_http_1_1,
            keep_alive=is_http_1_1 and self.parser.should_keep_alive(),
            awaits_continue=self.expect_100_continue,
            has_origin_or_coding=self._has_origin_or_coding,
        )
        before, self.cycle = self.cycle, request
        if (before is None or before.response_complete) and not self.flow.write_paused:
            self._due = request
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _admit_probe(self) -> None:
        """Raises Unavailable."""
        if self.url.decode("latin-1") not in PROBES:
            raise self._table.refusal()

    def on_body(self, body: bytes) -> None:
        self.body_bytes += len(body)
        newest = self.cycle
        if isinstance(newest, DirectRequest):
            newest.feed(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._offers_upgrade:
            return
        self.in_body = False
        newest = self.cycle
        if isinstance(newest, DirectRequest):
            newest.feed_end()
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if not self.flow.write_paused:
            self._go_on()

    def _go_on(self) -> None:
        """With the next of the pipeline, when what is before it has been taken."""
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            if not self.pipeline:
                self.flow.resume_reading()
            self._start_asgi_task(cycle, app)
        elif self._fault is not None:
            self._refuse(self._fault)
        elif self.ended_by_caller:
            self.transport.close()
        else:
            self.flow.resume_reading()
            self._patience.idle(self.loop.time())
            self._table.release(self)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Called for a request whose turn has come after one that it was pipelined behind, too."""
        self.running = cycle
        if isinstance(cycle, DirectRequest):
            self.loop.call_soon(self._receive, cycle)
        else:
            self._hold(HIGH_WATER_LIMIT)
            super()._start_asgi_task(cycle, app)

    def _receive(self, request: DirectRequest) -> None:
        if not self.transport.is_closing():
            self.running = request
            self._hold(self._table.limits.max_unread_bytes)
            self._desk.receive(request, self.tasks)

    def _hold(self, num_bytes: int) -> None:
        """How much may wait to be sent before `pause_writing` is called. An ASGI app waits then; a
        stream cannot, and is ended."""
        if self._high_water != num_bytes:
            self._high_water = num_bytes
            self.transport.set_write_buffer_limits(high=num_bytes)

    def pause_writing(self) -> None:
        super().pause_writing()
        running = self.running
        if isinstance(running, DirectRequest) and not running.reply.ending:
            self._table.count(Ended.UNREAD)
            self.drop()

    def resume_writing(self) -> None:
        was_paused = self.flow.write_paused
        super().resume_writing()
        if was_paused and not self._is_running and not self.transport.is_closing():
            self._go_on()

    @property
    def is_busy(self) -> bool:
        """Whether a request's turn is now, or one waits."""
        return self._is_running or self._due is not None or bool(self.pipeline)

    @property
    def _is_running(self) -> bool:
        return self.running is not None and not self.running.response_complete

    @property
    def is_streaming(self) -> bool:
        running = self.running
        return isinstance(running, DirectRequest) and not running.response_complete

    @property
    def reading_is_paused(self) -> bool:
        return self.flow.read_paused

    @property
    def unsent_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    def sweep(self, now: float, limits: Limits) -> Ended | None:
        return self._patience.sweep(now, limits)

    def hang_up(self) -> None:
        self.transport.close()

    def drop(self) -> None:
        self.transport.abort()

    def _direct_path(self) -> str | None:
        if self.parser.get_method() != b"POST":
            return None
        path = self.url.decode("latin-1")
        if path not in self._desk.handlers:
            path = unquote(httptools.parse_url(self.url).path.decode("ascii"))
        return path if path in self._desk.handlers else None

    def _make_scope(self) -> None:
        """As uvicorn does before it has seen the headers."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers


class DirectApp(Protocol):
    """An ASGI app with direct requests."""

    @property
    def desk(self) -> Desk: ...
    @property
    def connections(self) -> Connections: ...


def server_config(app: DirectApp, **settings: Any) -> uvicorn.Config:
    """How the app is served; it answers direct requests under this protocol only."""
    return uvicorn.Config(
        cast(ASGIApp, app),
        loop="uvloop",
        http=cast(Any, partial(GatewayProtocol, app.desk, app.connections)),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        **settings,
    )
