"""`/v1/organization/audit_logs`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import ConfigDict

from server.auth import AdminCaller
from server.errors import invalid_value
from server.organization.buckets import MAX_IDS
from server.organization.services import (
    After,
    Limit,
    OrganizationServices,
)
from server.paging import Listing, no_such_cursor
from server.store.audit import AuditFilter
from server.store.cursors import UnknownCursorError
from server.store.records import Actor, ActorKind, AuditEntry
from server.wire import ResponseBody

router = APIRouter()


class AuditProject(ResponseBody):
    id: str
    name: str


class AuditObject(ResponseBody):
    """Beside these, a member named as `type` holds what was done: `id` and more."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: str
    effective_at: int
    project: AuditProject | None
    actor: dict[str, Any]

    @classmethod
    def of(cls, entry: AuditEntry) -> AuditObject:
        project = entry.project and AuditProject(id=entry.project.id, name=entry.project.name)
        return cls(
            id=entry.id,
            type=entry.type,
            effective_at=entry.at,
            project=project,
            actor=_actor(entry.actor),
            **{entry.type: entry.details},
        )


@router.get("/audit_logs", summary="List the audit log")
async def list_audit_log(
    _: AdminCaller,
    services: OrganizationServices,
    since: Annotated[int | None, Query(alias="effective_at[gte]", ge=0, le=2**40)] = None,
    beyond: Annotated[int | None, Query(alias="effective_at[gt]", ge=0, le=2**40)] = None,
    until: Annotated[int | None, Query(alias="effective_at[lt]", ge=0, le=2**40)] = None,
    up_to: Annotated[int | None, Query(alias="effective_at[lte]", ge=0, le=2**40)] = None,
    project_ids: Annotated[list[str], Query(alias="project_ids[]", max_length=MAX_IDS)] = [],  # noqa: B006 as FastAPI has it
    event_types: Annotated[list[str], Query(alias="event_types[]", max_length=MAX_IDS)] = [],  # noqa: B006
    actor_ids: Annotated[list[str], Query(alias="actor_ids[]", max_length=MAX_IDS)] = [],  # noqa: B006
    resource_ids: Annotated[list[str], Query(alias="resource_ids[]", max_length=MAX_IDS)] = [],  # noqa: B006
    after: After = None,
    before: After = None,
    limit: Limit = 20,
) -> Listing[AuditObject]:
    """Who made, changed or deleted projects, keys, limits, models and jobs in the last 90 days,
    newest first."""
    if after is not None and before is not None:
        raise invalid_value("before", "It cannot be combined with 'after'.")
    starts = [at for at in (since, None if beyond is None else beyond + 1) if at is not None]
    ends = [at for at in (until, None if up_to is None else up_to + 1) if at is not None]
    wanted = AuditFilter(
        max(starts, default=None),
        min(ends, default=None),
        project_ids,
        event_types,
        actor_ids,
        resource_ids,
    )
    try:
        page = await services.store.audit.page(wanted, after=after, before=before, limit=limit)
    except UnknownCursorError as error:
        raise no_such_cursor(error) from None
    data = [AuditObject.of(entry) for entry in page.items]
    return Listing[AuditObject].of(data, has_more=page.has_more)


def _actor(actor: Actor) -> dict[str, Any]:
    if actor.kind is ActorKind.OPERATOR:
        return {"type": "session", "session": {"user": {"id": actor.id}}}
    owner: Literal["user"] = "user"
    return {"type": "api_key", "api_key": {"id": actor.id, "type": owner}}
