"""One request on its way in: its headers and, as it comes, its body."""

from __future__ import annotations

import asyncio
from typing import Protocol

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl

from server.direct.reply import Connection, Reply
from server.errors import ApiError, TooLarge
from server.gate import Call, ClientGone, Header, find_header

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ReadableConnection(Connection, Protocol):
    @property
    def flow(self) -> FlowControl: ...


class DirectRequest:
    """Stands where uvicorn has its `RequestResponseCycle`, whose `response_complete` and
    `keep_alive` it shares."""

    __slots__ = (
        "_awaits_continue",
        "_body",
        "_connection",
        "_fault",
        "_is_whole",
        "_limit_bytes",
        "_waiting",
        "call",
        "has_origin_or_coding",
        "headers",
        "path",
        "reply",
    )

    def __init__(
        self,
        connection: ReadableConnection,
        path: str,
        headers: list[Header],
        *,
        is_http_1_1: bool,
        keep_alive: bool,
        awaits_continue: bool,
        has_origin_or_coding: bool,
    ) -> None:
        self._connection = connection
        self._awaits_continue = awaits_continue
        self._body: bytes | bytearray = b""
        self._is_whole = False
        self._limit_bytes: int | None = None
        """None until the caller is known to be allowed to send a body."""
        self._waiting: asyncio.Future[None] | None = None
        self._fault: ApiError | None = None
        self.has_origin_or_coding = has_origin_or_coding
        """Whether it has an `origin` or a `content-encoding` header."""
        self.path = path
        self.headers = headers
        self.call = Call(path)
        self.reply = Reply(connection, self.call, is_chunked=is_http_1_1, keep_alive=keep_alive)

    @property
    def response_complete(self) -> bool:
        return self.reply.over

    @property
    def keep_alive(self) -> bool:
        return self.reply.keep_alive

    @keep_alive.setter
    def keep_alive(self, keep_alive: bool) -> None:
        self.reply.keep_alive = keep_alive

    def feed(self, data: bytes) -> None:
        """More of the body. What nobody will read is dropped; what nobody may send yet is not
        read on."""
        if self.reply.over:
            return
        if not self._body:
            self._body = data
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += data
        size = len(self._body)
        if self._limit_bytes is None:
            if size > HIGH_WATER_LIMIT:
                self._connection.flow.pause_reading()
        elif size > self._limit_bytes:
            self._wake(TooLarge(self._limit_bytes))

    def feed_end(self) -> None:
        self._is_whole = True
        self._wake(None)

    def spoil(self, error: ApiError) -> None:
        """The rest of the body will not come: the answer is `error`, and the last here."""
        self.reply.keep_alive = False
        self._fault = error
        self._wake(error)

    def lose(self) -> None:
        """The caller is gone."""
        self.reply.abandon()
        self._wake(ClientGone())

    async def read_body(self, limit_bytes: int) -> bytes:
        """Raises TooLarge, by the announced length where there is one, ClientGone, and what the
        body was spoilt by."""
        if not self._is_whole:
            if self._fault is not None:
                raise self._fault
            announced = find_header(self.headers, b"content-length")
            if announced is not None and int(announced) > limit_bytes:
                raise TooLarge(limit_bytes)
            self._limit_bytes = limit_bytes
            if len(self._body) <= limit_bytes:
                await self._rest_of_body()
        if len(self._body) > limit_bytes:
            raise TooLarge(limit_bytes)
        return bytes(self._body)

    async def _rest_of_body(self) -> None:
        if self.reply.over:
            raise ClientGone
        if self._awaits_continue:
            self._connection.transport.write(_CONTINUE)
        self._connection.flow.resume_reading()
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    def _wake(self, error: Exception | None) -> None:
        if self._waiting is None or self._waiting.done():
            return
        if error is None:
            self._waiting.set_result(None)
        else:
            self._waiting.set_exception(error)
