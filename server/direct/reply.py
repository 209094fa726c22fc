"""One response, written straight to the caller's connection."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

from uvicorn.server import ServerState

from server.errors import ApiError
from server.gate import Call, Header
from server.sse import KEEP_ALIVE

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_CLOSE = ("connection", "close")
_PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
_NOT_IN_HEADERS = re.compile(r"[^\x20-\x7e\xa0-\xff]")
"""Besides control characters, what Latin-1 has no byte for."""


class Transport(Protocol):
    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...


class Connection(Protocol):
    """What a response needs of the protocol object that it goes out on."""

    @property
    def transport(self) -> Transport: ...
    @property
    def server_state(self) -> ServerState: ...
    def on_response_complete(self) -> None: ...


class Reply:
    """Every method may be called from an engine's callback and returns at once: what a slow caller
    does not take yet waits in the transport, whose connection ends a stream that has too much of
    it there."""

    __slots__ = (
        "_connection",
        "_is_chunked",
        "_when_over",
        "call",
        "ending",
        "keep_alive",
        "over",
        "wrote",
    )

    def __init__(
        self, connection: Connection, call: Call, *, is_chunked: bool, keep_alive: bool
    ) -> None:
        self._connection = connection
        self._is_chunked = is_chunked
        self._when_over: list[Callable[[], None]] = []
        self.call = call
        self.keep_alive = keep_alive
        self.over = False
        """Complete, or its caller is gone: nothing more is written."""
        self.ending = False
        """Nothing is added to what was written."""
        self.wrote = False
        """Whether anything was written since this was last set to False."""

    def when_over(self, callback: Callable[[], None]) -> None:
        """Calls it once, when the response is complete or the connection lost."""
        if self.over:
            callback()
        else:
            self._when_over.append(callback)

    def start(self, status: int, headers: Sequence[Header], first: bytes = b"") -> None:
        """Begins a stream, with its first bytes if there are some."""
        framing = b"transfer-encoding: chunked\r\n\r\n" if self._is_chunked else b"\r\n"
        head = self._head(status, headers) + framing
        self._put(head + self._framed(first) if first else head)

    def write(self, data: bytes) -> None:
        """Adds to a stream; `data` is not empty."""
        self._put(self._framed(data))

    def end(self, data: bytes) -> None:
        """The last of a stream; `data` is not empty."""
        self.ending = True
        last = self._framed(data)
        self._put(last + b"0\r\n\r\n" if self._is_chunked else last)
        self._complete()

    def answer(self, status: int, body: bytes, headers: Sequence[Header] = ()) -> None:
        """A whole JSON response."""
        self.ending = True
        self._put(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (self._head(status, headers), len(body), body)
        )
        self._complete()

    def refuse(self, error: ApiError) -> None:
        """The error as a plain response, or as the last record of a stream that has begun."""
        if self.over:
            return
        call = self.call
        if call.status:
            self.end(call.errors.last_record(error, call.request_id))
            return
        if _CLOSE in error.headers:
            self.keep_alive = False
        headers = [
            (name.encode(), value.encode("latin-1", "replace"))
            for name, value in error.headers
            if (name, value) != _CLOSE
        ]
        self.answer(error.status, call.errors.body(error, call.request_id), headers)

    def show_life(self) -> None:
        """Writes something that a caller may ignore. HTTP/1.0 has nothing such before an answer."""
        if self.call.status:
            self.write(KEEP_ALIVE)
        elif self._is_chunked:
            self._put(_PROCESSING)

    def abandon(self) -> None:
        """The connection is lost."""
        if not self.over:
            self._settle()

    def _head(self, status: int, headers: Sequence[Header]) -> bytes:
        self.call.status = status
        lines = [
            b"%b: %b\r\n" % header
            for header in (
                *self._connection.server_state.default_headers,
                *headers,
                *self.call.headers(),
            )
        ]
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        return _STATUS_LINES[status] + b"".join(lines)

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data

    def _put(self, data: bytes) -> None:
        if not self.over:
            self.wrote = True
            self._connection.transport.write(data)

    def _complete(self) -> None:
        if self.over:
            return
        self._settle()
        if not self.keep_alive:
            self._connection.transport.close()
        self._connection.on_response_complete()

    def _settle(self) -> None:
        self.over = True
        callbacks, self._when_over = self._when_over, []
        for callback in callbacks:
            callback()


@lru_cache(maxsize=1024)
def model_header(model_id: str) -> Header:
    """Says which model answered."""
    return (b"openai-model", _NOT_IN_HEADERS.sub("?", model_id).encode("latin-1"))
