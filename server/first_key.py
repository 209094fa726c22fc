"""The key a fresh installation starts with.

An operator's key (environment or configuration) is taken as it is, and ends the one that was
configured before it. Otherwise one is made, and kept in `data/first_key` (readable by its owner
only) so that every start can show it again, until it is revoked. The database holds hashes only.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from server.store import Store
from server.store.keys import KeyRevokedError
from server.store.records import ApiKey, KeyOrigin, NewKey

DEFAULT_PROJECT_ID = "proj_default"
DEFAULT_PROJECT_NAME = "tuneyard"
ADMIN_PREFIX = "sk-admin-"


@dataclass(frozen=True, slots=True)
class FirstKey:
    """`plain` is None when an earlier start was given a key that this one was not told."""

    plain: str | None
    record: ApiKey


async def ensure_first_key(store: Store, data: Path, configured: str | None) -> FirstKey:
    """To be called by one process at start; gives the same answer on every start."""
    project = await store.projects.ensure(DEFAULT_PROJECT_ID, DEFAULT_PROJECT_NAME)
    if configured is not None:
        return FirstKey(configured, await store.keys.configure(project.id, configured))
    path = data / "first_key"
    if path.exists():
        plain = path.read_text().strip()
        with suppress(KeyRevokedError):
            return FirstKey(plain, await _keep(store, project.id, plain))
        path.unlink()
    earlier = await store.keys.first_of(project.id)
    if earlier is not None:
        return FirstKey(None, earlier)
    plain = new_key()
    _write_private(path, plain + "\n")
    return FirstKey(plain, await _keep(store, project.id, plain))


def new_key() -> str:
    """256 random bits, with OpenAI's prefix."""
    return "sk-" + secrets.token_urlsafe(32)


def new_admin_key() -> str:
    """256 random bits, with OpenAI's prefix of keys that administer."""
    return ADMIN_PREFIX + secrets.token_urlsafe(32)


async def _keep(store: Store, project_id: str, plain: str) -> ApiKey:
    new = NewKey(KeyOrigin.FIRST.value, origin=KeyOrigin.FIRST)
    return await store.keys.add(project_id, plain, new)


def _write_private(path: Path, text: str) -> None:
    """Whole or not at all, and never readable by others."""
    beside = path.with_suffix(".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
