"""`/v1/organization`: projects, their keys and limits, usage, costs, and the audit log."""

from server.organization import audit, keys, projects, usage
from server.organization.schemas import (
    ChangeRateLimit,
    CreateAdminKey,
    CreateServiceAccount,
    ProjectFields,
)

routers = (projects.router, keys.router, usage.router, audit.router)
BODIES = (ProjectFields, CreateServiceAccount, CreateAdminKey, ChangeRateLimit)

__all__ = ["BODIES", "routers"]
