"""The server-sent events of a streamed response: named, and numbered from 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from server.generation.answers import obfuscation, to_json

_DELTA = b'event: %b\ndata: {"type":"%b","item_id":"%b","output_index":%d,%b"delta":'


class EventWriter:
    """`write` sends bytes to the caller."""

    def __init__(self, write: Callable[[bytes], None], *, obfuscates: bool) -> None:
        self._write = write
        self._obfuscates = obfuscates
        self._number = 0

    def make(self, kind: str, fields: Mapping[str, Any]) -> bytes:
        """The next event's bytes, to be sent in their turn."""
        data = to_json({"type": kind, **fields, "sequence_number": self._number})
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)

    def send(self, kind: str, **fields: Any) -> None:
        self._write(self.make(kind, fields))

    def delta_head(self, kind: str, item_id: str, index: int, *, of_part: bool) -> bytes:
        """What all deltas of one text begin with."""
        part = b'"content_index":0,' if of_part else b""
        return _DELTA % (kind.encode(), kind.encode(), item_id.encode(), index, part)

    def send_delta(self, head: bytes, text: str, logprobs: bytes | None = None) -> None:
        """`logprobs` is JSON, for texts that have them."""
        data = to_json(text)
        rest = b"" if logprobs is None else b',"logprobs":' + logprobs
        if self._obfuscates:
            rest += b',"obfuscation":"%b"' % obfuscation(len(data)).encode()
        number = self._number
        self._number += 1
        self._write(b'%b%b%b,"sequence_number":%d}\n\n' % (head, data, rest, number))
