"""When a generating request reached its stages, as the header `server-timing` tells it (W3C)."""

from __future__ import annotations

import time


class Timing:
    """Times of `perf_counter`; 0 is a stage that the request has not reached."""

    __slots__ = ("admitted", "first_token")

    def __init__(self) -> None:
        self.admitted = 0.0
        self.first_token = 0.0

    def admit(self) -> None:
        self.admitted = time.perf_counter()

    def note_token(self) -> None:
        """Only a request's first one counts."""
        if not self.first_token:
            self.first_token = time.perf_counter()

    def header(self, started: float, now: float) -> tuple[bytes, bytes] | None:
        """What is known by `now` of a request that came at `started`."""
        if not self.admitted:
            return None
        queue_ms = (self.admitted - started) * 1000
        if not self.first_token:
            return (b"server-timing", b"queue;dur=%.1f" % queue_ms)
        prefill_ms = (self.first_token - self.admitted) * 1000
        decode_ms = (now - self.first_token) * 1000
        stages = (queue_ms, prefill_ms, decode_ms)
        return (b"server-timing", b"queue;dur=%.1f, prefill;dur=%.1f, decode;dur=%.1f" % stages)
