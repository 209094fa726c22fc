"""Fetches a model from its hub, into the cache, whole or not at all.

Plain HTTP for all three hubs, because their own libraries do not do what is promised here:
huggingface_hub 2.4 begins a file anew after a kill and checks no digest, openmind-hub 1.3 speaks to
its own hosts only and pins one version of requests, and modelscope-hub 0.5 keeps a cache of another
layout.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock

import httpx

from server.hubs.cache import FetchStoppedError, ModelCache
from server.hubs.listing import auth_headers, list_files
from server.hubs.model import HubError, HubModel, HubUnreachableError, Listing, RemoteFile
from server.hubs.refusals import check_answer

logger = logging.getLogger(__name__)

MAX_FILES_AT_ONCE = 4
MAX_FAILURES = 5
"""In a row, of one file, without a new byte."""
MAX_DAMAGED = 2
"""Times a file may arrive with another content than the hub says."""
_FIRST_BACKOFF_S = 0.25
_LAST_BACKOFF_S = 8.0
_TIMEOUT = httpx.Timeout(20.0, connect=10.0)
_CHUNK_BYTES = 1 << 20
_SPARE_BYTES = 64 << 20
_PARTIAL_CONTENT = 206

Report = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes there will be."""


class Fetch:
    def __init__(self, model: HubModel, report: Report, stop: Event) -> None:
        self._model = model
        self._cache = ModelCache(model)
        self._report = report
        self._stop = stop
        self._lock = Lock()
        self._done_bytes = self._total_bytes = 0

    def run(self) -> Path:
        """The model's directory. Blocks. Raises HubError, FetchStoppedError."""
        if self._model.offline:
            return self._cached("the cache alone may be used (offline)")
        with (
            self._cache.locked(self._stop),
            httpx.Client(timeout=_TIMEOUT, follow_redirects=True) as client,
        ):
            try:
                listing = list_files(client, self._model)
            except HubUnreachableError as error:
                directory = self._cached(str(error))
                logger.warning("hub not reached, cache used: %s", error)
                return directory
            self._fetch(client, listing)
            for file in listing.files:
                self._cache.link(listing.commit, file)
            self._cache.remember(listing.commit)
            return self._cache.snapshot(listing.commit)

    def _cached(self, why: str) -> Path:
        directory = self._cache.find()
        if directory is None:
            raise HubUnreachableError(
                f"{self._model} is not in {self._model.cache_dir}, and {why}."
            )
        return directory

    def _fetch(self, client: httpx.Client, listing: Listing) -> None:
        missing = [f for f in listing.files if not self._cache.has(listing.commit, f)]
        places = {f.path: self._cache.blob(listing.commit, f) for f in missing}
        # Two files of the same content are one blob.
        missing = list({places[f.path]: f for f in missing}.values())
        self._total_bytes = listing.total_bytes
        self._done_bytes = listing.total_bytes - sum(f.size for f in missing)
        self._check_room(sum(f.size for f in missing))
        self._advance(0)
        failed = Event()
        with ThreadPoolExecutor(MAX_FILES_AT_ONCE) as threads:
            jobs = [
                threads.submit(self._fetch_file, client, f, places[f.path], failed) for f in missing
            ]
        errors = [error for job in jobs if (error := job.exception()) is not None]
        # What another's failure stopped is no reason of its own.
        errors.sort(key=lambda error: isinstance(error, FetchStoppedError))
        if errors:
            raise errors[0]

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self._model.cache_dir).free
        if needed + _SPARE_BYTES > free:
            raise HubError(
                f"{self._model} needs {needed} bytes more in {self._model.cache_dir}, and {free} "
                "are free: make room or set cache_dir."
            )

    def _fetch_file(
        self, client: httpx.Client, file: RemoteFile, blob: Path, failed: Event
    ) -> None:
        try:
            self._fetch_with_retries(client, file, blob, failed)
        except BaseException:
            failed.set()
            raise

    def _fetch_with_retries(
        self, client: httpx.Client, file: RemoteFile, blob: Path, failed: Event
    ) -> None:
        part = blob.with_name(f"{blob.name}.incomplete")
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        if part.stat().st_size > file.size:
            part.write_bytes(b"")
        self._advance(part.stat().st_size)
        failures = damaged = 0
        while True:
            before = part.stat().st_size
            try:
                if self._transfer(client, file, part, failed):
                    break
                damaged += 1
                if damaged == MAX_DAMAGED:
                    raise HubError(
                        f"{file.path} of {self._model} does not have the size and checksum that "
                        "the hub names: something on the way changes it."
                    )
            except (httpx.HTTPError, HubUnreachableError) as error:
                failures = failures + 1 if part.stat().st_size <= before else 1
                if failures >= MAX_FAILURES:
                    message = f"{file.path} of {self._model} cannot be fetched: {error!r}"
                    raise HubUnreachableError(message) from error
                logger.warning("download interrupted", extra={"file": file.path})
            if self._stop.wait(min(_FIRST_BACKOFF_S * 2**failures, _LAST_BACKOFF_S)):
                raise FetchStoppedError
        part.rename(blob)

    def _transfer(self, client: httpx.Client, file: RemoteFile, part: Path, failed: Event) -> bool:
        """Goes on from what the part holds; False if that is not the file in the end. Raises
        httpx.HTTPError, HubError."""
        start = part.stat().st_size
        if start < file.size:
            headers = auth_headers(self._model) | {"Accept-Encoding": "identity"}
            if start:
                headers["Range"] = f"bytes={start}-"
            with client.stream("GET", file.url, headers=headers) as response:
                check_answer(self._model, response)
                if response.status_code != _PARTIAL_CONTENT:
                    self._advance(-start)
                    start = 0
                self._write(response, part, start, failed)
        if part.stat().st_size == file.size and _matches(part, file):
            return True
        self._advance(-part.stat().st_size)
        part.write_bytes(b"")
        return False

    def _write(self, response: httpx.Response, part: Path, start: int, failed: Event) -> None:
        with part.open("r+b") as out:
            out.seek(start)
            out.truncate()
            for chunk in response.iter_raw():
                out.write(chunk)
                self._advance(len(chunk))
                if self._stop.is_set() or failed.is_set():
                    raise FetchStoppedError

    def _advance(self, num_bytes: int) -> None:
        with self._lock:
            self._done_bytes += num_bytes
            self._report(self._done_bytes, self._total_bytes)


def _matches(part: Path, file: RemoteFile) -> bool:
    """Git names a blob by the SHA-1 of a header and its content ("Git Objects" in the Git Book)."""
    if file.digest is None:
        return True
    is_git = len(file.digest) == 40
    digest = hashlib.sha1(usedforsecurity=False) if is_git else hashlib.sha256()
    if is_git:
        digest.update(f"blob {file.size}\0".encode())
    with part.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == file.digest
