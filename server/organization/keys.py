"""Keys: those of projects, their service accounts, and those that administer."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from fastapi import APIRouter

from server.auth import AdminCaller
from server.bodies import json_of
from server.errors import NotFound
from server.first_key import new_admin_key, new_key
from server.openapi import json_body, refusals
from server.organization.schemas import (
    AdminKeyObject,
    CreateAdminKey,
    CreateServiceAccount,
    Deleted,
    NewAccountKey,
    NewAdminKey,
    NewServiceAccount,
    ProjectKeyObject,
    ServiceAccountObject,
)
from server.organization.services import (
    After,
    Limit,
    OrganizationServices,
    find_live_project,
    find_project,
    is_archived,
)
from server.paging import Listing, no_such_cursor
from server.store import Store
from server.store.cursors import UnknownCursorError
from server.store.identifiers import random_id
from server.store.keys import KeyRevokedError
from server.store.records import ApiKey, NewKey

router = APIRouter()
_KEYS = "/projects/{project_id}/api_keys"
_ACCOUNTS = "/projects/{project_id}/service_accounts"
_ADMIN_KEYS = "/admin_api_keys"


@router.get(_KEYS, summary="List a project's API keys")
async def list_project_keys(
    project_id: str,
    _: AdminCaller,
    services: OrganizationServices,
    after: After = None,
    limit: Limit = 20,
    owner_project_access: Literal["active", "any"] = "any",
) -> Listing[ProjectKeyObject]:
    """Those that are not revoked, the oldest first; an archived project has none."""
    await find_project(services.store, project_id)
    keys = services.store.keys
    try:
        page = await keys.page(project_id, after=after, limit=limit)
    except UnknownCursorError as error:
        raise no_such_cursor(error) from None
    used = await keys.last_used(project_id, [key.id for key in page.items])
    data = [ProjectKeyObject.of(key, used.get(key.id)) for key in page.items]
    return Listing[ProjectKeyObject].of(data, has_more=page.has_more)


@router.get(_KEYS + "/{key_id}", summary="Retrieve a project's API key")
async def retrieve_project_key(
    project_id: str, key_id: str, _: AdminCaller, services: OrganizationServices
) -> ProjectKeyObject:
    key = await _find_key(services.store, project_id, key_id)
    used = await services.store.keys.last_used(project_id, [key.id])
    return ProjectKeyObject.of(key, used.get(key.id))


@router.delete(_KEYS + "/{key_id}", responses=refusals(507), summary="Delete a project's API key")
async def delete_project_key(
    project_id: str, key_id: str, caller: AdminCaller, services: OrganizationServices
) -> Deleted:
    """It is refused within a second by every gateway. A service account ends with its key."""
    key = await _find_key(services.store, project_id, key_id)
    if not await services.store.keys.revoke(key.id, project_id, caller.actor):
        raise _no_such_key(key_id)
    services.keys.forget()
    return Deleted(id=key.id, object="organization.project.api_key.deleted")


@router.post(
    _ACCOUNTS,
    openapi_extra=json_body(CreateServiceAccount),
    responses=refusals(507),
    summary="Create a service account",
)
async def create_service_account(
    project_id: str,
    wanted: Annotated[CreateServiceAccount, json_of(CreateServiceAccount)],
    caller: AdminCaller,
    services: OrganizationServices,
) -> NewServiceAccount:
    """Makes an API key of the project, which is told in this answer and never again."""
    await find_live_project(services.store, project_id)
    value = new_key()
    new = NewKey(
        wanted.name,
        scopes=None if wanted.scopes is None else frozenset(wanted.scopes),
        models=None if wanted.models is None else frozenset(wanted.models),
        expires_at=_expiry(wanted.expires_in_seconds),
        service_account_id=random_id("svc_acct_"),
    )
    try:
        key = await services.store.keys.add(project_id, value, new, caller.actor)
    except KeyRevokedError:
        raise is_archived(project_id) from None
    account = ServiceAccountObject.of(key)
    return NewServiceAccount(
        id=account.id,
        name=key.name,
        created_at=key.created_at,
        api_key=NewAccountKey(
            id=key.id,
            name=key.name,
            created_at=key.created_at,
            expires_at=key.expires_at,
            value=value,
        ),
    )


@router.get(_ACCOUNTS, summary="List a project's service accounts")
async def list_service_accounts(
    project_id: str,
    _: AdminCaller,
    services: OrganizationServices,
    after: After = None,
    limit: Limit = 20,
) -> Listing[ServiceAccountObject]:
    """The oldest first."""
    await find_project(services.store, project_id)
    keys = services.store.keys
    cursor = None if after is None else await keys.get(project_id, after)
    if after is not None and cursor is None:
        raise no_such_cursor(UnknownCursorError(after))
    page = await keys.page(project_id, after=cursor and cursor.id, limit=limit, of_accounts=True)
    data = [ServiceAccountObject.of(key) for key in page.items]
    return Listing[ServiceAccountObject].of(data, has_more=page.has_more)


@router.get(_ACCOUNTS + "/{account_id}", summary="Retrieve a service account")
async def retrieve_service_account(
    project_id: str, account_id: str, _: AdminCaller, services: OrganizationServices
) -> ServiceAccountObject:
    return ServiceAccountObject.of(await _find_account(services.store, project_id, account_id))


@router.delete(
    _ACCOUNTS + "/{account_id}", responses=refusals(507), summary="Delete a service account"
)
async def delete_service_account(
    project_id: str, account_id: str, caller: AdminCaller, services: OrganizationServices
) -> Deleted:
    """Its key ends with it."""
    key = await _find_account(services.store, project_id, account_id)
    if not await services.store.keys.revoke(key.id, project_id, caller.actor):
        raise _no_such_account(account_id)
    services.keys.forget()
    return Deleted(id=account_id, object="organization.project.service_account.deleted")


@router.get(_ADMIN_KEYS, summary="List admin keys")
async def list_admin_keys(
    _: AdminCaller,
    services: OrganizationServices,
    after: After = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "asc",
) -> Listing[AdminKeyObject]:
    """Those that are not revoked."""
    try:
        page = await services.store.admin_keys.page(
            after=after, limit=limit, ascending=order == "asc"
        )
    except UnknownCursorError as error:
        raise no_such_cursor(error) from None
    data = [AdminKeyObject.of(key) for key in page.items]
    return Listing[AdminKeyObject].of(data, has_more=page.has_more)


@router.post(
    _ADMIN_KEYS,
    openapi_extra=json_body(CreateAdminKey),
    responses=refusals(507),
    summary="Create an admin key",
)
async def create_admin_key(
    wanted: Annotated[CreateAdminKey, json_of(CreateAdminKey)],
    caller: AdminCaller,
    services: OrganizationServices,
) -> NewAdminKey:
    """It opens `/v1/organization` and nothing else, and is told in this answer only."""
    value = new_admin_key()
    expires_at = _expiry(wanted.expires_in_seconds)
    key = await services.store.admin_keys.add(value, wanted.name, expires_at, caller.actor)
    return NewAdminKey(**AdminKeyObject.of(key).model_dump(), value=value)


@router.get(_ADMIN_KEYS + "/{key_id}", summary="Retrieve an admin key")
async def retrieve_admin_key(
    key_id: str, _: AdminCaller, services: OrganizationServices
) -> AdminKeyObject:
    key = await services.store.admin_keys.get(key_id)
    if key is None:
        raise _no_such_key(key_id)
    return AdminKeyObject.of(key)


@router.delete(_ADMIN_KEYS + "/{key_id}", responses=refusals(507), summary="Delete an admin key")
async def delete_admin_key(
    key_id: str, caller: AdminCaller, services: OrganizationServices
) -> Deleted:
    """It is refused within a second by every gateway, the caller's own included."""
    if not await services.store.admin_keys.revoke(key_id, caller.actor):
        raise _no_such_key(key_id)
    services.keys.forget()
    return Deleted(id=key_id, object="organization.admin_api_key.deleted")


def _expiry(seconds: int | None) -> int | None:
    return None if seconds is None else int(time.time()) + seconds


async def _find_key(store: Store, project_id: str, key_id: str) -> ApiKey:
    """Raises NotFound."""
    await find_project(store, project_id)
    key = await store.keys.get(project_id, key_id)
    if key is None or key.id != key_id:
        raise _no_such_key(key_id)
    return key


async def _find_account(store: Store, project_id: str, account_id: str) -> ApiKey:
    """The account's key. Raises NotFound."""
    await find_project(store, project_id)
    key = await store.keys.get(project_id, account_id)
    if key is None or key.service_account_id != account_id:
        raise _no_such_account(account_id)
    return key


def _no_such_key(key_id: str) -> NotFound:
    return NotFound(f"No such API key: {key_id}", param="key_id", code="api_key_not_found")


def _no_such_account(account_id: str) -> NotFound:
    return NotFound(
        f"No such service account: {account_id}",
        param="service_account_id",
        code="service_account_not_found",
    )
