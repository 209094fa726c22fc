"""Who is calling: bearer key to principal, remembered for a second.

A revoked key is refused within `KEY_TTL_S`; an unknown one always asks the store, so a new key
works at once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Request

from server.errors import Unauthorized
from server.remembered import Remembered
from server.store.records import ApiKey, Project

KEY_TTL_S = 1.0
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
        self._known: Remembered[str, Principal] = Remembered(self._find, KEY_TTL_S)

    async def authenticate(self, authorization: bytes | None) -> Principal:
        """Raises Unauthorized."""
        key = _bearer(authorization)
        principal = await self._known.get(hashlib.sha256(key).hexdigest())
        if principal is None:
            raise Unauthorized(f"Incorrect API key provided: {_redact(key)}.")
        return principal

    async def _find(self, key_hash: str) -> Principal | None:
        found = await self._directory.find(key_hash)
        return None if found is None else Principal(found.id, found.project)


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
