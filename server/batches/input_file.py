"""The lines of a batch's input file: read in bounded memory, and checked whole before one of them
is run."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from server.blobs import Blobs
from templates.example_lines import without_mark

MAX_LINES = 50_000
MAX_BYTES = 200 * 1024 * 1024
MAX_TOLD = 100
"""Errors of one file."""
_MAX_ID_CHARS = 512
_METHOD = "POST"


@dataclass(frozen=True, slots=True)
class Line:
    """`number` counts from 1, empty lines included."""

    number: int
    data: bytes


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A line that has been checked."""

    custom_id: str
    body: msgspec.Raw


class _Unchecked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    custom_id: Any = None
    method: Any = None
    url: Any = None
    body: Any = None


_request = msgspec.json.Decoder(Request)
_unchecked = msgspec.json.Decoder(_Unchecked)


def read_request(line: Line) -> Request:
    """Of a file that has been checked."""
    return _request.decode(line.data)


async def read_lines(blobs: Blobs, key: str) -> AsyncGenerator[Sequence[Line]]:
    """Those that are not empty, some at a time. Raises FileNotFoundError."""
    rest: list[bytes] = []
    number = 0
    is_first = True
    async with aclosing(blobs.read(key)) as chunks:
        async for chunk in chunks:
            first, *others = chunk.split(b"\n")
            rest.append(first)
            lines: list[Line] = []
            for piece in others:
                number += 1
                data = b"".join(rest)
                data = without_mark(data) if is_first else data
                is_first = False
                if data.strip():
                    lines.append(Line(number, data))
                rest = [piece]
            if lines:
                yield lines
    data = b"".join(rest)
    data = without_mark(data) if is_first else data
    if data.strip():
        yield [Line(number + 1, data)]


class InputCheck:
    """Fed with a file's lines; `errors` are as `errors.data` of a batch has them."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._seen: set[bytes] = set()
        self.errors: list[dict[str, Any]] = []
        self.model: str | None = None
        self.num_lines = 0

    def feed(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self.num_lines += 1
            if self.num_lines == MAX_LINES + 1:
                message = f"The file holds more than {MAX_LINES} requests."
                self._tell(None, "too_many_tasks", message, None)
            if len(self.errors) >= MAX_TOLD or self.num_lines > MAX_LINES:
                return
            self._check(line)

    def finish(self) -> None:
        if not self.num_lines:
            self._tell(None, "empty_file", "The file holds no requests.", None)

    def _check(self, line: Line) -> None:
        number = line.number
        try:
            given = _unchecked.decode(line.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            is_shape = isinstance(error, msgspec.ValidationError)
            reason = str(error) if is_shape else "it is not valid JSON"
            self._tell(number, "invalid_json_line", f"This line cannot be read: {reason}.", None)
            return
        self._check_id(number, given.custom_id)
        if given.method != _METHOD:
            self._tell(number, "invalid_method", "Expected 'POST'.", "method")
        if given.url != self._endpoint:
            message = f"Expected the batch's endpoint, '{self._endpoint}'."
            self._tell(number, "mismatched_url", message, "url")
        if not isinstance(given.body, dict):
            self._tell(number, "invalid_request", "Expected an object.", "body")
            return
        body: dict[str, Any] = given.body
        self._check_model(number, body.get("model"))
        for name in ("stream", "background"):
            if body.get(name):
                message = "A request of a batch is answered whole."
                self._tell(number, "invalid_request", message, f"body.{name}")

    def _check_id(self, number: int, custom_id: Any) -> None:
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _MAX_ID_CHARS:
            message = f"Expected a string of 1 to {_MAX_ID_CHARS} characters."
            self._tell(number, "missing_required_parameter", message, "custom_id")
            return
        digest = hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16)
        if digest.digest() in self._seen:
            message = "The custom_id stands on an earlier line as well."
            self._tell(number, "duplicate_custom_id", message, "custom_id")
        self._seen.add(digest.digest())

    def _check_model(self, number: int, model: Any) -> None:
        if not isinstance(model, str) or not model:
            self._tell(number, "missing_required_parameter", "Expected a string.", "body.model")
        elif self.model is None:
            self.model = model
        elif model != self.model:
            message = "All requests of a batch are to one model, that of its first line."
            self._tell(number, "mismatched_model", message, "body.model")

    def _tell(self, line: int | None, code: str, message: str, param: str | None) -> None:
        self.errors.append({"code": code, "message": message, "param": param, "line": line})


async def check_input(blobs: Blobs, key: str, endpoint: str) -> InputCheck:
    """Raises FileNotFoundError."""
    check = InputCheck(endpoint)
    async with aclosing(read_lines(blobs, key)) as groups:
        async for lines in groups:
            await asyncio.to_thread(check.feed, lines)
            if len(check.errors) >= MAX_TOLD or check.num_lines > MAX_LINES:
                break
    check.finish()
    del check.errors[MAX_TOLD:]
    return check
