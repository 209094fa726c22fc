"""`/v1/organization/projects`, and the limits of each."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from server.auth import AdminCaller
from server.bodies import json_of
from server.errors import InvalidRequest, NotFound
from server.first_key import DEFAULT_PROJECT_ID
from server.openapi import json_body, refusals
from server.organization.schemas import (
    NO_LIMIT,
    ChangeRateLimit,
    ProjectFields,
    ProjectObject,
    RateLimitObject,
    limit_id,
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
from server.store.records import ModelKind, RateLimit

router = APIRouter(prefix="/projects")


@router.get("", summary="List projects")
async def list_projects(
    _: AdminCaller,
    services: OrganizationServices,
    after: After = None,
    limit: Limit = 20,
    include_archived: bool = False,
) -> Listing[ProjectObject]:
    """The oldest first."""
    try:
        page = await services.store.projects.page(
            after=after, limit=limit, include_archived=include_archived
        )
    except UnknownCursorError as error:
        raise no_such_cursor(error) from None
    data = [ProjectObject.of(project) for project in page.items]
    return Listing[ProjectObject].of(data, has_more=page.has_more)


@router.post(
    "",
    openapi_extra=json_body(ProjectFields),
    responses=refusals(507),
    summary="Create a project",
)
async def create_project(
    wanted: Annotated[ProjectFields, json_of(ProjectFields)],
    caller: AdminCaller,
    services: OrganizationServices,
) -> ProjectObject:
    """A tenant: it sees its own files, jobs and models, and no one else's."""
    return ProjectObject.of(await services.store.projects.create(wanted.name, caller.actor))


@router.get("/{project_id}", summary="Retrieve a project")
async def retrieve_project(
    project_id: str, _: AdminCaller, services: OrganizationServices
) -> ProjectObject:
    return ProjectObject.of(await find_project(services.store, project_id))


@router.post(
    "/{project_id}",
    openapi_extra=json_body(ProjectFields),
    responses=refusals(507),
    summary="Modify a project",
)
async def modify_project(
    project_id: str,
    wanted: Annotated[ProjectFields, json_of(ProjectFields)],
    caller: AdminCaller,
    services: OrganizationServices,
) -> ProjectObject:
    """Its name; the models' ids that have the old one keep it."""
    await find_live_project(services.store, project_id)
    project = await services.store.projects.rename(project_id, wanted.name, caller.actor)
    if project is None:
        raise is_archived(project_id)
    services.keys.forget()
    return ProjectObject.of(project)


@router.post("/{project_id}/archive", responses=refusals(507), summary="Archive a project")
async def archive_project(
    project_id: str, caller: AdminCaller, services: OrganizationServices
) -> ProjectObject:
    """Its keys end, for good; its files, jobs and models stay."""
    if project_id == DEFAULT_PROJECT_ID:
        raise InvalidRequest(
            "The default project cannot be archived.", param="project_id", code="invalid_value"
        )
    await find_live_project(services.store, project_id)
    project = await services.store.projects.archive(project_id, caller.actor)
    if project is None:
        raise is_archived(project_id)
    services.keys.forget()
    return ProjectObject.of(project)


@router.get("/{project_id}/rate_limits", summary="List a project's rate limits")
async def list_rate_limits(
    project_id: str,
    _: AdminCaller,
    services: OrganizationServices,
    after: After = None,
    limit: Limit = 100,
) -> Listing[RateLimitObject]:
    """One for each base model; its fine-tunes are counted with it. 2147483647 is no limit."""
    await find_project(services.store, project_id)
    limits = await services.store.projects.rate_limits(project_id)
    models = await _limited_models(services.store, project_id)
    if after is not None:
        places = [number for number, model in enumerate(models) if limit_id(model) == after]
        if not places:
            raise no_such_cursor(UnknownCursorError(after))
        models = models[places[0] + 1 :]
    data = [RateLimitObject.of(model, limits.get(model, RateLimit())) for model in models[:limit]]
    return Listing[RateLimitObject].of(data, has_more=len(models) > limit)


@router.post(
    "/{project_id}/rate_limits/{rate_limit_id:path}",
    openapi_extra=json_body(ChangeRateLimit),
    responses=refusals(507),
    summary="Modify a project's rate limit",
)
async def modify_rate_limit(
    project_id: str,
    rate_limit_id: str,
    wanted: Annotated[ChangeRateLimit, json_of(ChangeRateLimit)],
    caller: AdminCaller,
    services: OrganizationServices,
) -> RateLimitObject:
    """Requests and tokens that the project may use a minute on a model; beyond it is a 429. It
    holds within a second, and beside the limits of this server's configuration."""
    await find_live_project(services.store, project_id)
    models = await _limited_models(services.store, project_id)
    model = next((model for model in models if limit_id(model) == rate_limit_id), None)
    if model is None:
        raise NotFound(
            f"No such rate limit: {rate_limit_id}",
            param="rate_limit_id",
            code="rate_limit_not_found",
        )

    def change(before: RateLimit) -> RateLimit:
        return RateLimit(
            _changed(before.requests, wanted.max_requests_per_1_minute),
            _changed(before.tokens, wanted.max_tokens_per_1_minute),
        )

    projects = services.store.projects
    limit = await projects.change_rate_limit(project_id, model, change, caller.actor)
    if limit is None:
        raise is_archived(project_id)
    services.keys.forget()
    return RateLimitObject.of(model, limit)


def _changed(before: int | None, wanted: int | None) -> int | None:
    if wanted is None:
        return before
    return None if wanted == NO_LIMIT else wanted


async def _limited_models(store: Store, project_id: str) -> list[str]:
    models = await store.models.list_for(project_id)
    return [model.id for model in models if model.kind is ModelKind.BASE]
