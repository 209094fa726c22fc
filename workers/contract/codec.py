"""Frames on a worker's socket: a 4-byte little-endian length, then a msgpack array of messages.

A worker sends one frame per engine step with the events of all requests of a connection; a client
may likewise put several requests into one frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from workers.contract.messages import Event, Request
from workers.contract.parts import Message

MAX_FRAME_BYTES = 256 * 1024 * 1024
_HEADER_BYTES = 4

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(list[Request])
_events = msgspec.msgpack.Decoder(list[Event])


class FrameError(Exception):
    """The peer sent bytes that are not a frame of this protocol; the connection is of no use."""


def encode(messages: Sequence[Message]) -> bytes:
    """One frame holding `messages`."""
    frame = bytearray(_HEADER_BYTES)
    _encoder.encode_into(messages, frame, _HEADER_BYTES)
    frame[:_HEADER_BYTES] = (len(frame) - _HEADER_BYTES).to_bytes(_HEADER_BYTES, "little")
    return bytes(frame)


def decode_requests(body: bytes | memoryview) -> list[Request]:
    """Raises FrameError."""
    try:
        return _requests.decode(body)
    except msgspec.MsgspecError as error:
        raise FrameError(str(error)) from error


def decode_events(body: bytes | memoryview) -> list[Event]:
    """Raises FrameError."""
    try:
        return _events.decode(body)
    except msgspec.MsgspecError as error:
        raise FrameError(str(error)) from error


def _frame_size(data: bytes) -> int:
    """Of the frame that `data` begins with, its header included."""
    return int.from_bytes(data[:_HEADER_BYTES], "little") + _HEADER_BYTES


class FrameReader:
    """Cuts a byte stream into frame bodies: feed what arrived, get the bodies now complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises FrameError for a frame over `MAX_FRAME_BYTES`."""
        buffer = self._buffer
        if not buffer and len(data) == _frame_size(data):
            yield data[_HEADER_BYTES:]
            return
        buffer += data
        start = 0
        while len(buffer) - start >= _HEADER_BYTES:
            size = int.from_bytes(buffer[start : start + _HEADER_BYTES], "little")
            if size > MAX_FRAME_BYTES:
                raise FrameError(f"frame of {size} bytes is over the limit of {MAX_FRAME_BYTES}")
            end = start + _HEADER_BYTES + size
            if len(buffer) < end:
                break
            yield bytes(buffer[start + _HEADER_BYTES : end])
            start = end
        del buffer[:start]
