"""Who is calling: bearer key to principal, remembered for a second.

A revoked key is refused within `KEY_TTL_S`; an unknown one always asks the store, so a new key
works at once.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Request

from server.errors import Unauthorized
from server.store.records import ApiKey, Project

KEY_TTL_S = 1.0
_MAX_REMEMBERED = 10_000
_SCHEME = b"bearer "
_VISIBLE_CHARS = 4


class KeyDirectory(Protocol):
    async def find(self, key_hash: str) -> ApiKey | None: ...


@dataclass(frozen=True, slots=True)
class Principal:
    key_id: str
    project: Project


class KeyRing:
    """Turns `Authorization` headers into principals."""

    def __init__(self, directory: KeyDirectory) -> None:
        self._directory = directory
        self._known: dict[str, tuple[float, Principal]] = {}

    async def authenticate(self, authorization: bytes | None) -> Principal:
        """Raises Unauthorized."""
        key = _bearer(authorization)
        key_hash = hashlib.sha256(key).hexdigest()
        known = self._known.get(key_hash)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        found = await self._directory.find(key_hash)
        if found is None:
            self._known.pop(key_hash, None)
            raise Unauthorized(f"Incorrect API key provided: {_redact(key)}.")
        principal = Principal(found.id, found.project)
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known[key_hash] = (time.monotonic() + KEY_TTL_S, principal)
        return principal


def _bearer(authorization: bytes | None) -> bytes:
    if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
        raise Unauthorized(
            "You didn't provide an API key. Provide it in an Authorization header using Bearer "
            "auth (i.e. Authorization: Bearer YOUR_KEY)."
        )
    return authorization[len(_SCHEME) :].strip()


def _redact(key: bytes) -> str:
    text = key.decode("ascii", "replace")
    if len(text) <= 3 * _VISIBLE_CHARS:
        return "*" * len(text)
    return f"{text[:_VISIBLE_CHARS]}{'*' * 8}{text[-_VISIBLE_CHARS:]}"


def _principal_of(request: Request) -> Principal:
    principal: Principal = request.scope["principal"]
    return principal


Caller = Annotated[Principal, Depends(_principal_of)]
"""Route parameter: the authenticated caller."""
