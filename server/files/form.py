"""The multipart body of an upload, read as it arrives: fields into memory (few and short), the
file's bytes straight to their place. Nothing is spooled twice and nothing is read beyond a limit.

Wire format: RFC 7578, parsed by python-multipart.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from email.message import Message
from typing import TYPE_CHECKING, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from server.blobs import BlobWriter
from server.errors import InvalidRequest, TooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 64 * 1024
_MAX_HEADER_BYTES = 8 * 1024

OpenWriter = Callable[[], Awaitable[BlobWriter]]


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """`writer` holds the bytes, not yet committed."""

    filename: str
    num_bytes: int
    sha256: str
    writer: BlobWriter


@dataclass(frozen=True, slots=True)
class ReceivedForm:
    fields: dict[str, str]
    file: ReceivedFile | None


class FormReader:
    """Reads one body. After an error the caller discards `writer`, if one was opened."""

    def __init__(self, file_field: str, max_file_bytes: int, open_writer: OpenWriter) -> None:
        self._file_field = file_field
        self._max_file_bytes = max_file_bytes
        self._open_writer = open_writer
        self._fields: dict[str, str] = {}
        self._events: list[tuple[str, bytes]] = []
        self.writer: BlobWriter | None = None
        self._filename = ""
        self._file_bytes = 0
        self._digest = hashlib.sha256()
        self._field: str | None = None
        self._field_data = bytearray()
        self._in_file = False
        self._headers: dict[str, str] = {}
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._ended = False

    async def read(self, content_type: str, body: AsyncIterator[bytes]) -> ReceivedForm:
        """Raises InvalidRequest, TooLarge, StorageFullError."""
        boundary = _boundary(content_type, self._file_field)
        try:
            parser = MultipartParser(boundary, cast("MultipartCallbacks", self._callbacks()))
            async for chunk in body:
                parser.write(chunk)
                await self._take_events()
            parser.finalize()
        except FormParserError as error:
            raise InvalidRequest(f"The multipart body is malformed: {error}") from error
        await self._take_events()
        if not self._ended:
            raise InvalidRequest("The multipart body ends before its last boundary.")
        return ReceivedForm(self._fields, self._file())

    def _file(self) -> ReceivedFile | None:
        if self.writer is None:
            return None
        return ReceivedFile(self._filename, self._file_bytes, self._digest.hexdigest(), self.writer)

    def _callbacks(self) -> dict[str, Callable[..., None]]:
        """The parser calls back while it is fed; what it said is worked on between feeds, where
        waiting is possible. At most one network chunk is held so."""

        def note(name: str) -> Callable[[], None]:
            return lambda: self._events.append((name, b""))

        def note_data(name: str) -> Callable[[bytes, int, int], None]:
            return lambda data, start, end: self._events.append((name, data[start:end]))

        plain = ("part_begin", "part_end", "header_end", "headers_finished", "end")
        with_data = ("part_data", "header_field", "header_value")
        callbacks: dict[str, Callable[..., None]] = {f"on_{name}": note(name) for name in plain}
        callbacks.update({f"on_{name}": note_data(name) for name in with_data})
        return callbacks

    async def _take_events(self) -> None:
        for name, data in self._events:
            match name:
                case "part_data":
                    await self._take_data(data)
                case "header_field":
                    self._header_name += data
                case "header_value":
                    self._header_value += data
                    if len(self._header_value) > _MAX_HEADER_BYTES:
                        raise InvalidRequest("A header of the multipart body is too long.")
                case "header_end":
                    self._end_header()
                case "headers_finished":
                    await self._start_part()
                case "part_end":
                    self._end_part()
                case "part_begin":
                    self._headers.clear()
                case _:
                    self._ended = True
        self._events.clear()

    def _end_header(self) -> None:
        name = self._header_name.decode("latin-1").strip().lower()
        self._headers[name] = self._header_value.decode("utf-8", "replace")
        self._header_name.clear()
        self._header_value.clear()

    async def _start_part(self) -> None:
        name, filename = _disposition(self._headers.get("content-disposition", ""))
        if name != self._file_field:
            self._field = name
            return
        if filename is None:
            raise InvalidRequest(
                f"Invalid type for '{name}': expected a file, but got a string instead.",
                param=name,
                code="invalid_type",
            )
        if self.writer is not None:
            raise InvalidRequest("Only one file can be uploaded at a time.", param=name)
        self._filename = filename
        self._in_file = True
        self.writer = await self._open_writer()

    async def _take_data(self, data: bytes) -> None:
        if not self._in_file or self.writer is None:
            self._field_data += data
            if len(self._field_data) > _MAX_FIELD_BYTES:
                raise TooLarge(_MAX_FIELD_BYTES)
            return
        self._file_bytes += len(data)
        if self._file_bytes > self._max_file_bytes:
            raise TooLarge(self._max_file_bytes)
        self._digest.update(data)
        await self.writer.write(data)

    def _end_part(self) -> None:
        self._in_file = False
        if self._field is None:
            return
        if self._field in self._fields or len(self._fields) >= _MAX_FIELDS:
            raise InvalidRequest(
                f"The field '{self._field}' appears twice or there are too many fields.",
                param=self._field,
            )
        try:
            self._fields[self._field] = self._field_data.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"The field '{self._field}' is not UTF-8.", param=self._field
            ) from error
        self._field = None
        self._field_data = bytearray()


def _boundary(content_type: str, file_field: str) -> bytes:
    parsed = Message()
    parsed["content-type"] = content_type
    boundary = parsed.get_param("boundary")
    if parsed.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise InvalidRequest(
            f"The request must be multipart/form-data with a boundary, holding '{file_field}'."
        )
    try:
        return boundary.encode("ascii")
    except UnicodeEncodeError as error:
        raise InvalidRequest("The multipart boundary is not ASCII.") from error


def _disposition(header: str) -> tuple[str, str | None]:
    """Field name and file name of a part."""
    parsed = Message()
    parsed["content-disposition"] = header.replace("\r", " ").replace("\n", " ")
    name = parsed.get_param("name", header="content-disposition")
    if not isinstance(name, str):
        raise InvalidRequest("A part of the multipart body has no name.")
    return name, parsed.get_filename()
