"""Where a hub's models lie on disk.

The layout is huggingface_hub's (its guide "Understand caching"), so that what `hf download` or
transformers fetched is found, and the other way round: `models--owner--name/` with
`blobs/<digest>`, `snapshots/<commit>/<path>` linking into it, and `refs/<revision>` naming the
commit.
A file is linked only when it is whole, and a reference is written only when all files are linked.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from server.hubs.model import HubError, HubModel, RemoteFile

_LOCK_POLL_S = 0.2


class FetchStoppedError(Exception):
    """The process is told to leave."""


class ModelCache:
    def __init__(self, model: HubModel) -> None:
        self._model = model
        folder = "--".join(["models", *model.name.split("/")])
        self._folder = model.cache_dir / folder
        self._lock = model.cache_dir / ".locks" / f"{folder}.tuneyard.lock"

    @contextmanager
    def locked(self, stop: Event) -> Generator[None]:
        """One process fetches a model at a time; others wait, and find it there. Raises
        FetchStoppedError, HubError."""
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            self._folder.mkdir(exist_ok=True)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            where = self._model.cache_dir
            raise HubError(f"cache_dir {where} cannot be written to: {error.strerror}") from error
        try:
            while not _taken(descriptor):
                if stop.wait(_LOCK_POLL_S):
                    raise FetchStoppedError
            yield
        finally:
            os.close(descriptor)

    def find(self) -> Path | None:
        """The revision's directory, if the cache has it whole."""
        revision = self._model.revision
        snapshots = self._folder / "snapshots"
        try:
            commit = (self._folder / "refs" / revision).read_text(encoding="utf-8").strip()
        except OSError:
            commit = revision
        directory = snapshots / commit
        return directory if directory.parent == snapshots and self._is_whole(directory) else None

    def _is_whole(self, directory: Path) -> bool:
        if not (directory / "config.json").is_file():
            return False
        if not self._model.has_weights:
            return True
        index = directory / "model.safetensors.index.json"
        if index.is_file():
            shards = set(json.loads(index.read_bytes())["weight_map"].values())
            return all((directory / shard).is_file() for shard in shards)
        return any(directory.glob("*.safetensors")) or any(directory.glob("*.bin"))

    def snapshot(self, commit: str) -> Path:
        return self._folder / "snapshots" / commit

    def blob(self, commit: str, file: RemoteFile) -> Path:
        name = file.digest or hashlib.sha256(f"{commit} {file.path}".encode()).hexdigest()
        return self._folder / "blobs" / name

    def has(self, commit: str, file: RemoteFile) -> bool:
        blob = self.blob(commit, file)
        return blob.is_file() and blob.stat().st_size == file.size

    def link(self, commit: str, file: RemoteFile) -> None:
        place = self.snapshot(commit) / file.path
        blob = os.path.relpath(self.blob(commit, file), place.parent)
        if place.is_symlink() and os.readlink(place) == blob:
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(blob)

    def remember(self, commit: str) -> None:
        """The revision is this commit, and it is whole."""
        reference = self._folder / "refs" / self._model.revision
        if self._model.revision != commit:
            reference.parent.mkdir(parents=True, exist_ok=True)
            beside = reference.with_name(f"{reference.name}.new")
            beside.write_text(commit, encoding="utf-8")
            beside.rename(reference)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
