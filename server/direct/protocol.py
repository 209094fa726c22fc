"""uvicorn's HTTP/1.1 protocol, with a way of its own for direct requests."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Any, Protocol, cast
from urllib.parse import unquote

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from server.direct.desk import Desk
from server.direct.reply import Reply
from server.direct.request import DirectRequest
from server.direct.upgrades import without_upgrade
from server.errors import ApiError, HeadTooLarge, InvalidRequest
from server.gate import Call

MAX_HEAD_BYTES = 64 * 1024


class GatewayProtocol(HttpToolsProtocol):
    """Handles a direct request when all that was read has been parsed: its body is then mostly
    there, and nothing has to be waited for.

    `self.cycle` is, as at uvicorn, the newest request; one that was pipelined behind another waits
    in `self.pipeline`.
    """

    # uvicorn declares its own kinds.
    parser: Any
    cycle: Any
    pipeline: deque[tuple[Any, Any]]

    def __init__(
        self,
        desk: Desk,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._desk = desk
        self._due: DirectRequest | None = None
        self._under_way: DirectRequest | None = None
        self._offers_upgrade = False
        """Whether the head just parsed does; it is parsed again without."""
        self._in_head = False
        self._head_bytes = 0
        """Of the head that is being read, what came after its first read."""

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        was_in_head = self._in_head
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if was_in_head and self._in_head:
            self._limit_head(len(data))
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

    def send_400_response(self, msg: str) -> None:
        """uvicorn's own is plain text, without a request id."""
        self._refuse(InvalidRequest(msg))

    def _limit_head(self, num_bytes: int) -> None:
        """The parser keeps what it has of a header, however long it is."""
        self._head_bytes += num_bytes
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadTooLarge())

    def _refuse(self, error: ApiError) -> None:
        """Of a request that could not be read; the connection is of no more use."""
        Reply(cast(Any, self), Call(), is_chunked=False, keep_alive=False).refuse(error)

    def connection_lost(self, exc: Exception | None) -> None:
        newest = self.cycle
        if isinstance(newest, DirectRequest):
            self.cycle = None
            newest.lose()
        if self._under_way is not None:
            self._under_way.lose()
            self._under_way = None
        self._due = None
        self.pipeline.clear()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The scope is left to requests that need one."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._offers_upgrade = False
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        parser = self.parser
        if parser.should_upgrade() and parser.get_method() != b"CONNECT":
            self._offers_upgrade = True
            return
        path = self._direct_path()
        if path is None:
            self._make_scope()
            super().on_headers_complete()
            return
        is_http_1_1 = parser.get_http_version() == "1.1"
        request = DirectRequest(
            self,
            path,
            self.headers,
            is_http_1_1=is_http_1_1,
            keep_alive=is_http_1_1 and parser.should_keep_alive(),
            awaits_continue=self.expect_100_continue,
        )
        before, self.cycle = self.cycle, request
        if before is None or before.response_complete:
            self._due = request
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        newest = self.cycle
        if isinstance(newest, DirectRequest):
            newest.feed(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._offers_upgrade:
            return
        newest = self.cycle
        if isinstance(newest, DirectRequest):
            newest.feed_end()
        else:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Called for a request whose turn has come after one that it was pipelined behind, too."""
        if isinstance(cycle, DirectRequest):
            self.loop.call_soon(self._receive, cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def _receive(self, request: DirectRequest) -> None:
        if not self.transport.is_closing():
            self._under_way = request
            self._desk.receive(request, self.tasks)

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


def server_config(app: DirectApp, **settings: Any) -> uvicorn.Config:
    """How the app is served; it answers direct requests under this protocol only."""
    return uvicorn.Config(
        cast(ASGIApp, app),
        loop="uvloop",
        http=cast(Any, partial(GatewayProtocol, app.desk)),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        **settings,
    )
