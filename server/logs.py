"""Structured logs: one JSON object a line on standard error, with the request's id.

Ids, counts and times only; never prompt or output text. Access lines are collected and written
a few times a second, because a log call of its own would cost a tenth of a short request.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from contextvars import ContextVar
from typing import Any, Protocol, TextIO

import msgspec

request_id_context: ContextVar[str | None] = ContextVar("request_id", default=None)

FLUSH_INTERVAL_S = 0.25
NO_ROUTE = "none"
"""Stands for the route of what was asked at no path of ours."""
_CLIENT_GONE = 499
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds; counted, not written."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request_id := request_id_context.get()) is not None:
            line["request_id"] = request_id
        line.update((k, v) for k, v in vars(record).items() if k not in _STANDARD)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=repr).decode()


def configure_logging(process: str, level: int = logging.INFO) -> None:
    """For a process of ours at its start; replaces whatever handlers the root logger has."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)


class Logged(Protocol):
    """What an access line is made of."""

    @property
    def request_id(self) -> str: ...
    @property
    def started(self) -> float: ...
    @property
    def status(self) -> int: ...


class _AccessLine(msgspec.Struct, frozen=True, gc=False):
    at: float
    level: str
    process: str
    message: str
    request_id: str
    method: str
    path: str
    status: int
    ms: float


class AccessLog:
    """Status 499 stands for a caller that hung up before the answer began."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._lines: list[_AccessLine] = []
        self.answers: Counter[tuple[str, str, int]] = Counter()
        """By method, route and status; a route is a path as it is declared."""
        self.num_lost = 0
        """Lines that could not be written: the log's disk is full."""
        self._flusher: asyncio.TimerHandle | None = None

    def add(self, call: Logged, method: str, path: str, route: str) -> None:
        status = call.status or _CLIENT_GONE
        self.answers[method, route, status] += 1
        if self._stream is None or path in _PROBES:
            return
        now, elapsed_s = time.time(), time.perf_counter() - call.started
        self._lines.append(
            _AccessLine(
                int(now * 1000) / 1000,
                "info",
                "gateway",
                "request",
                call.request_id,
                method,
                path,
                status,
                int(elapsed_s * 10_000) / 10,
            )
        )
        if self._flusher is None:
            self._flusher = asyncio.get_running_loop().call_later(FLUSH_INTERVAL_S, self.flush)

    def flush(self) -> None:
        self._flusher = None
        if self._stream is not None and self._lines:
            lines = b"".join(msgspec.json.encode(line) + b"\n" for line in self._lines)
            try:
                self._stream.write(lines.decode())
                self._stream.flush()
            except OSError:
                self.num_lost += len(self._lines)
        self._lines.clear()
