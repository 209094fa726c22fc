"""Answers written from callbacks, and the bytes of server-sent events.

`Reply` lets code that is called by an engine's socket write to the caller's connection at once. An
ASGI server's `send` finishes without waiting unless the caller reads too slowly; then what follows
is held and written by a task once there is room, in order.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any

from starlette.types import Message, Send

from server.errors import ApiError
from server.gate import Call, Header

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
SSE_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


def record(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


class Reply:
    """One response. Every method may be called from a callback and returns at once."""

    __slots__ = ("_call", "_held", "_send", "_writer", "ended", "wrote")

    def __init__(self, send: Send, call: Call) -> None:
        self._send = send
        self._call = call
        self._held: list[Message] = []
        self._writer: asyncio.Task[None] | None = None
        self.ended = False
        self.wrote = False
        """Whether anything was written since this was last set to False."""

    @property
    def started(self) -> bool:
        return self._call.status != 0

    def start(self, status: int, headers: tuple[Header, ...]) -> None:
        self._call.status = status
        self._put(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, *self._call.headers()],
            }
        )

    def write(self, data: bytes) -> None:
        self.wrote = True
        self._put({"type": "http.response.body", "body": data, "more_body": True})

    def end(self, data: bytes = b"") -> None:
        self.ended = True
        self._put({"type": "http.response.body", "body": data})

    def answer(self, status: int, body: bytes, headers: tuple[Header, ...] = ()) -> None:
        """A whole JSON response."""
        self.start(
            status,
            (
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                *headers,
            ),
        )
        self.end(body)

    def refuse(self, error: ApiError) -> None:
        """The error as a plain response, or as the last record of a stream that has begun."""
        if self.ended:
            return
        if self.started:
            self.end(record(error.body()) + DONE)
        else:
            headers = tuple((k.encode(), v.encode("latin-1", "replace")) for k, v in error.headers)
            self.answer(error.status, error.body(), headers)

    async def drained(self) -> None:
        """Waits until nothing is held."""
        if self._writer is not None:
            await self._writer

    def _put(self, message: Message) -> None:
        if self._writer is not None:
            self._held.append(message)
            return
        sending: Any = self._send(message)
        try:
            waited_for = sending.send(None)
        except StopIteration:
            return
        self._writer = asyncio.create_task(self._write_held(sending, waited_for))

    async def _write_held(self, sending: Coroutine[Any, Any, None], waited_for: Any) -> None:
        await _rest(sending, waited_for)
        while self._held:
            held, self._held = self._held, []
            for message in held:
                await self._send(message)
        self._writer = None


@types.coroutine
def _rest(sending: Coroutine[Any, Any, None], waited_for: Any) -> Generator[Any, Any, None]:
    """Runs a coroutine on that was started by hand and is waiting for `waited_for`."""
    try:
        while True:
            yield waited_for
            waited_for = sending.send(None)
    except StopIteration:
        return


class KeepAlive:
    """Writes a comment into every stream that was silent for a whole interval, so no stream is
    silent for longer than twice that."""

    def __init__(self, max_silence_s: float) -> None:
        self._interval_s = max_silence_s / 2
        self._streams: set[Reply] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: Reply) -> None:
        self._streams.add(stream)
        if self._timer is None:
            self._schedule()

    def remove(self, stream: Reply) -> None:
        self._streams.discard(stream)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        for stream in self._streams:
            if not stream.wrote and not stream.ended:
                stream.write(KEEP_ALIVE)
            stream.wrote = False
        if self._streams:
            self._schedule()
