"""A model on a hub: where it is, what its files are, and what can go wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from server.hubs.names import Hub


class HubError(Exception):
    """The model cannot be had; the message is for the operator and says what to do."""


class HubUnreachableError(HubError):
    """The hub does not answer, or not as a hub: another try may help."""


@dataclass(frozen=True, slots=True)
class HubModel:
    hub: Hub
    name: str
    revision: str
    """A branch, a tag or a commit."""
    endpoint: str
    """The hub's address, without a slash at its end."""
    cache_dir: Path
    token: str | None = field(default=None, repr=False)
    has_weights: bool = True
    """False fetches the config and the tokenizer only."""
    offline: bool = False
    """Only what the cache has; the hub is not asked."""

    def __str__(self) -> str:
        return f"{self.name}@{self.revision} of {self.hub.full_name}"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    path: str
    size: int
    digest: str | None
    """SHA-256 of the content, or the 40 digits of its git blob id; None where the hub has none."""
    url: str

    def __post_init__(self) -> None:
        """A hub's answer chooses no place outside the model's own folder."""
        parts = PurePosixPath(self.path).parts
        if not parts or self.path.startswith("/") or ".." in parts or "\\" in self.path:
            raise HubError(f"the hub names a file that no model has: {self.path!r}")
        if self.digest is not None and not (
            len(self.digest) in (40, 64) and set(self.digest) <= set("0123456789abcdef")
        ):
            raise HubError(f"the hub gives {self.path} a checksum of an unknown kind")


@dataclass(frozen=True, slots=True)
class Listing:
    """A revision's files. `commit` changes whenever any of them does."""

    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)
