"""`/v1/fine_tuning/checkpoints/{checkpoint}/permissions`: fine-tunes shared with other projects.

Who may share is the project that the fine-tune belongs to, with any of its keys. Whoever it is
shared with may use it, and neither train on it nor delete it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request

from server.auth import Caller, Principal
from server.bodies import json_of
from server.errors import ModelNotFound, NotFound, invalid_value
from server.models.catalog import Catalog
from server.openapi import json_body, refusals
from server.paging import Listing
from server.rows import Rows
from server.store import Store
from server.store.cursors import UnknownCursorError
from server.store.permissions import UnknownProjectError
from server.store.records import Permission
from server.wire import RequestBody, ResponseBody, several

router = APIRouter(prefix="/v1/fine_tuning/checkpoints", tags=["Fine-tuning"])

MAX_PROJECTS = 100
"""Of one request."""
MAX_PAGE = 100
_PATH = "/{fine_tuned_model_checkpoint:path}/permissions"
_KIND = "checkpoint.permission"


class GrantPermissions(RequestBody):
    project_ids: Annotated[list[str], several(MAX_PROJECTS, 1)]


class PermissionObject(ResponseBody):
    id: str
    object: Literal["checkpoint.permission"] = _KIND
    created_at: int
    project_id: str

    @classmethod
    def of(cls, permission: Permission) -> PermissionObject:
        return cls(
            id=permission.id, created_at=permission.created_at, project_id=permission.project_id
        )


class PermissionList(Listing[PermissionObject]):
    pass


class PermissionDeleted(ResponseBody):
    id: str
    object: Literal["checkpoint.permission"] = _KIND
    deleted: Literal[True] = True


def _catalog_of(request: Request) -> Catalog:
    catalog: Catalog = request.app.services.catalog
    return catalog


@router.post(
    _PATH,
    openapi_extra=json_body(GrantPermissions),
    responses=refusals(507),
    summary="Share a checkpoint with other projects",
)
async def create_permissions(
    fine_tuned_model_checkpoint: str,
    wanted: Annotated[GrantPermissions, json_of(GrantPermissions)],
    caller: Caller,
    rows: Rows,
) -> PermissionList:
    """Let other projects use a fine-tune, or one of its checkpoints. A repeat changes nothing."""
    model_id = await _own(rows, caller, fine_tuned_model_checkpoint)
    if caller.project.id in wanted.project_ids:
        raise invalid_value("project_ids", "The checkpoint is this project's own.")
    try:
        granted = await rows.permissions.grant(model_id, wanted.project_ids)
    except UnknownProjectError as error:
        reason = f"There is no project '{error.project_id}'."
        raise invalid_value("project_ids", reason) from None
    return _listed(granted, has_more=False)


@router.get(_PATH, summary="List a checkpoint's permissions")
async def list_permissions(
    fine_tuned_model_checkpoint: str,
    caller: Caller,
    rows: Rows,
    project_id: Annotated[str | None, Query()] = None,
    after: Annotated[str | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 10,
    order: Literal["ascending", "descending"] = "descending",
) -> PermissionList:
    """The projects that a fine-tune is shared with, the last first unless asked otherwise."""
    model_id = await _own(rows, caller, fine_tuned_model_checkpoint)
    try:
        page = await rows.permissions.page(
            model_id,
            after=after,
            limit=limit,
            ascending=order == "ascending",
            project_id=project_id,
        )
    except UnknownCursorError as error:
        reason = f"There is no '{error.after}' in this list."
        raise invalid_value("after", reason) from None
    return _listed(page.items, has_more=page.has_more)


@router.delete(_PATH + "/{permission_id}", responses=refusals(507), summary="End a permission")
async def delete_permission(
    fine_tuned_model_checkpoint: str,
    permission_id: str,
    caller: Caller,
    rows: Rows,
    catalog: Annotated[Catalog, Depends(_catalog_of)],
) -> PermissionDeleted:
    """Requests under way finish; for new ones of the other project there is no such model."""
    model_id = await _own(rows, caller, fine_tuned_model_checkpoint)
    if not await rows.permissions.revoke(model_id, permission_id):
        raise NotFound(
            f"No such permission: {permission_id}", param="permission_id", code="not_found"
        )
    catalog.forget_model(model_id)
    return PermissionDeleted(id=permission_id)


def _listed(permissions: Sequence[Permission], *, has_more: bool) -> PermissionList:
    data = [PermissionObject.of(permission) for permission in permissions]
    return PermissionList.of(data, has_more=has_more)


async def _own(rows: Store, caller: Principal, checkpoint: str) -> str:
    """The id of the caller's fine-tune. Raises ModelNotFound, PermissionDenied."""
    caller.check_model(checkpoint)
    model = await rows.models.find(checkpoint, caller.project.id)
    if model is None or model.id != checkpoint or model.project_id != caller.project.id:
        raise ModelNotFound(checkpoint)
    return model.id
