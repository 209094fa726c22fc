"""`/v1/organization`: projects, their keys and limits, usage, costs, and the audit log."""

from fastapi import APIRouter, Depends

from server.auth import ADMINISTRATION
from server.organization import audit, keys, projects, usage
from server.organization.schemas import (
    ChangeRateLimit,
    CreateAdminKey,
    CreateServiceAccount,
    ProjectFields,
)
from server.query import refuse_unknown

router = APIRouter(
    prefix=ADMINISTRATION, tags=["Administration"], dependencies=[Depends(refuse_unknown)]
)
for _part in (projects, keys, usage, audit):
    router.include_router(_part.router)
BODIES = (ProjectFields, CreateServiceAccount, CreateAdminKey, ChangeRateLimit)

__all__ = ["BODIES", "router"]
