"""What the model routes need of the app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from server.engines.pool import EnginePool
from server.models.catalog import Catalog
from server.store import Store


@dataclass(frozen=True, slots=True)
class _ModelsServices:
    store: Store
    pool: EnginePool
    catalog: Catalog


def _services_of(request: Request) -> _ModelsServices:
    services: Any = request.app.services
    return _ModelsServices(services.store, services.pool, services.catalog)


ModelsServices = Annotated[_ModelsServices, Depends(_services_of)]
