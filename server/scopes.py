"""What a key can be limited to: parts of the API, by the first part of a path after `/v1`."""

from __future__ import annotations

SCOPES = (
    "chat",
    "completions",
    "responses",
    "messages",
    "embeddings",
    "batches",
    "score",
    "models",
    "files",
    "uploads",
    "fine_tuning",
)
READ = ":read"
"""Behind a scope: for reading only."""
_READING = frozenset({"GET", "HEAD"})


def check_scope(scope: str) -> str:
    """Raises ValueError."""
    if scope.removesuffix(READ) not in SCOPES:
        raise ValueError(f"a scope is one of {', '.join(SCOPES)}, with or without '{READ}'")
    return scope


def missing_scope(scopes: frozenset[str], method: str, path: str) -> str | None:
    """The scope that a request needs and `scopes` lack."""
    parts = path.split("/", 3)
    wanted = parts[2] if len(parts) > 2 else ""
    if wanted in scopes:
        return None
    if method not in _READING:
        return wanted
    reading = wanted + READ
    return None if reading in scopes else reading
