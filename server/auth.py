"""Who is calling: bearer key to principal, remembered for a second, and what the key opens.

A key that was revoked, or has expired, is refused within `KEY_TTL_S` by every gateway, and at once
by the one that was told; an unknown one always asks the store, so a new key works at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends, Request

from server.errors import PermissionDenied, Unauthorized
from server.remembered import Remembered
from server.scopes import missing_scope
from server.store.records import Actor, ActorKind, AdminKey, ApiKey, Project, RateLimit

KEY_TTL_S = 1.0
ADMINISTRATION = "/v1/organization"
_SCHEME = b"bearer "
_VISIBLE_CHARS = 4
_INSUFFICIENT = "insufficient_permissions"


class KeyDirectory(Protocol):
    async def find(self, key_hash: str) -> ApiKey | None: ...


class AdminKeyDirectory(Protocol):
    async def find(self, key_hash: str) -> AdminKey | None: ...


@dataclass(frozen=True, slots=True)
class Principal:
    key_id: str
    project: Project
    scopes: frozenset[str] | None = None
    models: frozenset[str] | None = None
    rate_limits: Mapping[str, RateLimit] = field(default_factory=dict[str, RateLimit])
    """Of the project, by base model."""

    @property
    def actor(self) -> Actor:
        """For the audit log."""
        return Actor(ActorKind.KEY, self.key_id)

    def check_model(self, model: str) -> None:
        """Raises PermissionDenied."""
        if self.models is not None and model not in self.models:
            raise PermissionDenied(
                f"This API key does not have access to model '{model}'.",
                param="model",
                code="model_not_found",
            )


@dataclass(frozen=True, slots=True)
class Administrator:
    """Who calls with an admin key: of no project."""

    key_id: str

    @property
    def actor(self) -> Actor:
        return Actor(ActorKind.ADMIN_KEY, self.key_id)


class KeyRing:
    """Turns `Authorization` headers into principals."""

    def __init__(self, directory: KeyDirectory, admins: AdminKeyDirectory) -> None:
        self._directory = directory
        self._admins = admins
        self._known: Remembered[str, Principal] = Remembered(self._find, KEY_TTL_S)
        self._known_admins: Remembered[str, Administrator] = Remembered(self._find_admin, KEY_TTL_S)

    async def authenticate(self, authorization: bytes | None, method: str, path: str) -> Principal:
        """Raises Unauthorized, and PermissionDenied for a key that does not open this."""
        key = _bearer(authorization)
        key_hash = hashlib.sha256(key).hexdigest()
        principal = await self._known.get(key_hash)
        if principal is None:
            if await self._known_admins.get(key_hash) is not None:
                raise PermissionDenied(
                    f"This is an admin key, which opens {ADMINISTRATION} only. Please use a "
                    "project's API key.",
                    code=_INSUFFICIENT,
                )
            raise _incorrect(key)
        if principal.scopes is not None:
            missing = missing_scope(principal.scopes, method, path)
            if missing is not None:
                raise PermissionDenied(
                    f"You have insufficient permissions for this operation. Missing scopes: "
                    f"{missing}.",
                    code=_INSUFFICIENT,
                )
        return principal

    async def authenticate_administrator(self, authorization: bytes | None) -> Administrator:
        """Raises Unauthorized, and PermissionDenied for a project's key."""
        key = _bearer(authorization)
        key_hash = hashlib.sha256(key).hexdigest()
        administrator = await self._known_admins.get(key_hash)
        if administrator is not None:
            return administrator
        if await self._known.get(key_hash) is None:
            raise _incorrect(key)
        raise PermissionDenied(
            "You have insufficient permissions for this operation. Please use an admin key.",
            code=_INSUFFICIENT,
        )

    def forget(self) -> None:
        """Something about keys has changed here: all are asked for again."""
        self._known.forget_all()
        self._known_admins.forget_all()

    async def _find(self, key_hash: str) -> Principal | None:
        found = await self._directory.find(key_hash)
        if found is None:
            return None
        return Principal(found.id, found.project, found.scopes, found.models, found.rate_limits)

    async def _find_admin(self, key_hash: str) -> Administrator | None:
        found = await self._admins.find(key_hash)
        return None if found is None else Administrator(found.id)


def _incorrect(key: bytes) -> Unauthorized:
    return Unauthorized(f"Incorrect API key provided: {_redact(key)}.")


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


def _administrator_of(request: Request) -> Administrator:
    administrator: Administrator = request.scope["administrator"]
    return administrator


Caller = Annotated[Principal, Depends(_principal_of)]
"""Route parameter: the authenticated caller."""
AdminCaller = Annotated[Administrator, Depends(_administrator_of)]
"""Route parameter of administration: the authenticated caller."""
