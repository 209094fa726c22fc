"""Signs of life in streams that have nothing to say."""

from __future__ import annotations

import asyncio

from server.direct.reply import Reply
from server.sse import KEEP_ALIVE


class KeepAlive:
    """Writes a comment into every stream that was silent for a whole interval, so no stream is
    silent for longer than twice that."""

    def __init__(self, max_silence_s: float) -> None:
        self._interval_s = max_silence_s / 2
        self._streams: set[Reply] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: Reply) -> None:
        """Until the stream is over."""
        self._streams.add(stream)
        stream.when_over(lambda: self._streams.discard(stream))
        if self._timer is None:
            self._schedule()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        for stream in self._streams:
            if not stream.wrote:
                stream.write(KEEP_ALIVE)
            stream.wrote = False
        if self._streams:
            self._schedule()
