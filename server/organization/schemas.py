"""Projects, keys and limits on the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from server.scopes import check_scope
from server.store.records import AdminKey, ApiKey, Project, RateLimit
from server.wire import RequestBody, ResponseBody, several

MAX_NAME_LENGTH = 100
MAX_NAMES = 100
NO_LIMIT = 2**31 - 1
"""On the wire, where a limit is always a number."""
_OPERATOR = "operator"


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("a name has printable characters only")
    return name


Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH), AfterValidator(_printable)]
ExpiresIn = Annotated[int, Field(ge=1, le=10 * 366 * 24 * 3600)]
PerMinute = Annotated[int, Field(ge=1, le=NO_LIMIT)]
Scope = Annotated[str, Field(max_length=100), AfterValidator(check_scope)]


class ProjectFields(RequestBody):
    """Of a project that is made or modified."""

    name: Name


class CreateServiceAccount(RequestBody):
    """`scopes` and `models` are this server's own."""

    name: Name
    expires_in_seconds: ExpiresIn | None = None
    create_service_account_only: Literal[False] | None = None
    scopes: Annotated[list[Scope], several(MAX_NAMES, 1)] | None = None
    models: Annotated[list[Annotated[str, Field(max_length=512)]], several(MAX_NAMES, 1)] | None = (
        None
    )


class CreateAdminKey(RequestBody):
    name: Name
    expires_in_seconds: ExpiresIn | None = None


class ChangeRateLimit(RequestBody):
    max_requests_per_1_minute: PerMinute | None = None
    max_tokens_per_1_minute: PerMinute | None = None


class ProjectObject(ResponseBody):
    id: str
    object: Literal["organization.project"] = "organization.project"
    name: str
    created_at: int
    archived_at: int | None
    status: Literal["active", "archived"]

    @classmethod
    def of(cls, project: Project) -> ProjectObject:
        return cls(
            id=project.id,
            name=project.name,
            created_at=project.created_at,
            archived_at=project.archived_at,
            status="active" if project.archived_at is None else "archived",
        )


class KeyUser(ResponseBody):
    id: str
    created_at: int
    email: str
    name: str
    role: str


class KeyServiceAccount(ResponseBody):
    id: str
    created_at: int
    name: str
    role: str


class KeyOwner(ResponseBody):
    type: Literal["user", "service_account"]
    user: KeyUser | None = None
    service_account: KeyServiceAccount | None = None

    @classmethod
    def of(cls, key: ApiKey) -> KeyOwner:
        if key.service_account_id is None:
            user = KeyUser(
                id=_OPERATOR, created_at=key.created_at, email="", name=_OPERATOR, role="owner"
            )
            return cls(type="user", user=user)
        account = KeyServiceAccount(
            id=key.service_account_id, created_at=key.created_at, name=key.name, role="member"
        )
        return cls(type="service_account", service_account=account)


class ProjectKeyObject(ResponseBody):
    """`scopes` and `models` are this server's own; null is everything."""

    id: str
    object: Literal["organization.project.api_key"] = "organization.project.api_key"
    redacted_value: str
    name: str
    created_at: int
    last_used_at: int | None
    expires_at: int | None
    owner: KeyOwner
    owner_project_access: Literal["active"] = "active"
    scopes: list[str] | None
    models: list[str] | None

    @classmethod
    def of(cls, key: ApiKey, last_used_at: int | None) -> ProjectKeyObject:
        return cls(
            id=key.id,
            redacted_value=redacted(key.prefix),
            name=key.name,
            created_at=key.created_at,
            last_used_at=last_used_at,
            expires_at=key.expires_at,
            owner=KeyOwner.of(key),
            scopes=None if key.scopes is None else sorted(key.scopes),
            models=None if key.models is None else sorted(key.models),
        )


class ServiceAccountObject(ResponseBody):
    id: str
    object: Literal["organization.project.service_account"] = "organization.project.service_account"
    name: str
    role: Literal["member"] = "member"
    created_at: int

    @classmethod
    def of(cls, key: ApiKey) -> ServiceAccountObject:
        assert key.service_account_id is not None
        return cls(id=key.service_account_id, name=key.name, created_at=key.created_at)


class NewAccountKey(ResponseBody):
    """The only time that the key itself is told."""

    id: str
    object: Literal["organization.project.service_account.api_key"] = (
        "organization.project.service_account.api_key"
    )
    name: str
    created_at: int
    expires_at: int | None
    value: str


class NewServiceAccount(ServiceAccountObject):
    api_key: NewAccountKey


class AdminOwner(ResponseBody):
    type: Literal["user"] = "user"
    object: Literal["organization.user"] = "organization.user"
    id: str = _OPERATOR
    name: str = _OPERATOR
    created_at: int
    role: Literal["owner"] = "owner"


class AdminKeyObject(ResponseBody):
    id: str
    object: Literal["organization.admin_api_key"] = "organization.admin_api_key"
    name: str
    redacted_value: str
    created_at: int
    last_used_at: int | None = None
    expires_at: int | None
    owner: AdminOwner

    @classmethod
    def of(cls, key: AdminKey) -> AdminKeyObject:
        return cls(
            id=key.id,
            name=key.name,
            redacted_value=redacted(key.prefix),
            created_at=key.created_at,
            expires_at=key.expires_at,
            owner=AdminOwner(created_at=key.created_at),
        )


class NewAdminKey(AdminKeyObject):
    """The only time that the key itself is told."""

    value: str


class RateLimitObject(ResponseBody):
    id: str
    object: Literal["project.rate_limit"] = "project.rate_limit"
    model: str
    max_requests_per_1_minute: int
    max_tokens_per_1_minute: int

    @classmethod
    def of(cls, model: str, limit: RateLimit) -> RateLimitObject:
        return cls(
            id=limit_id(model),
            model=model,
            max_requests_per_1_minute=limit.requests or NO_LIMIT,
            max_tokens_per_1_minute=limit.tokens or NO_LIMIT,
        )


class Deleted(ResponseBody):
    id: str
    object: str
    deleted: Literal[True] = True


def limit_id(model: str) -> str:
    return f"rl-{model}"


def redacted(prefix: str) -> str:
    return f"{prefix}{'*' * 8}"
