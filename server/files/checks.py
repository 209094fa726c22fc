"""The check of files at upload: what a purpose's files may be called, and whether what can be told
without a job is right. Of training files these are lines of JSON: others are read when a job
validates them, in another process."""

from __future__ import annotations

from typing import Protocol

from server.datasets.containers import EXTENSIONS, HEAD_BYTES, Container, container_of, extension_of
from server.errors import InvalidRequest
from server.files.jsonl import LineCheck
from server.files.schemas import LINE_APIS, Purpose


class FileCheck(Protocol):
    """Fed with a file's bytes, cut anywhere; blocks for as long as reading them takes."""

    def feed(self, data: bytes) -> None:
        """Raises InvalidRequest."""
        ...

    def finish(self) -> None:
        """Raises InvalidRequest."""
        ...


def file_check(purpose: str, filename: str) -> FileCheck | None:
    """None for a purpose whose files may be anything."""
    if purpose == Purpose.FINE_TUNE:
        return TrainingFileCheck(filename)
    return LineCheck() if purpose in LINE_APIS else None


def check_extension(filename: str, purpose: Purpose, param: str = "file") -> None:
    """A name without an extension says nothing about the content and is let through. Raises
    InvalidRequest."""
    if purpose not in LINE_APIS:
        return
    extension = extension_of(filename)
    allowed = tuple(EXTENSIONS) if purpose is Purpose.FINE_TUNE else (".jsonl",)
    if extension is not None and extension not in allowed:
        raise InvalidRequest(
            f"Invalid file format for {LINE_APIS[purpose]} API. Must be {', '.join(allowed)}",
            param=param,
        )


class TrainingFileCheck:
    """Waits until it can tell the container."""

    def __init__(self, filename: str) -> None:
        self._filename = filename
        self._head = b""
        self._check: LineCheck | None = None
        self._is_decided = False

    def feed(self, data: bytes) -> None:
        if not self._is_decided:
            self._head += data
            if len(self._head) < HEAD_BYTES:
                return
            data = self._decide()
        if self._check is not None:
            self._check.feed(data)

    def finish(self) -> None:
        if not self._is_decided:
            head = self._decide()
            if self._check is not None:
                self._check.feed(head)
        if self._check is not None:
            self._check.finish()

    def _decide(self) -> bytes:
        """What has been held back."""
        self._is_decided = True
        if container_of(self._filename, self._head) is Container.JSONL:
            self._check = LineCheck()
        head, self._head = self._head, b""
        return head
