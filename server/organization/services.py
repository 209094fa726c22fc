"""What the routes of administration share: the services they need, and how they read a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request

from server.auth import KeyRing
from server.config import Config
from server.errors import InvalidRequest, NotFound
from server.store import Store
from server.store.records import Project

MAX_PAGE = 100
After = Annotated[str | None, Query(max_length=512)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]


@dataclass(frozen=True, slots=True)
class _OrganizationServices:
    store: Store
    keys: KeyRing
    config: Config


def _services_of(request: Request) -> _OrganizationServices:
    services: Any = request.app.services
    return _OrganizationServices(services.store, services.keys, services.config)


OrganizationServices = Annotated[_OrganizationServices, Depends(_services_of)]


async def find_project(store: Store, project_id: str) -> Project:
    """Raises NotFound."""
    project = await store.projects.find(project_id)
    if project is None:
        raise NotFound(
            f"No such project: {project_id}", param="project_id", code="project_not_found"
        )
    return project


async def find_live_project(store: Store, project_id: str) -> Project:
    """Raises NotFound, and InvalidRequest for an archived one."""
    project = await find_project(store, project_id)
    if project.archived_at is not None:
        raise is_archived(project_id)
    return project


def is_archived(project_id: str) -> InvalidRequest:
    return InvalidRequest(
        f"The project {project_id} is archived.", param="project_id", code="project_archived"
    )
