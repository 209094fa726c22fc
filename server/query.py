"""What comes behind a route's `?`."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute

from server.errors import unknown_parameter


def refuse_unknown(request: Request) -> None:
    """What the route does not take is not ignored. Raises InvalidRequest."""
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = {field.alias for field in _query_fields(route.dependant)}
    for name in request.query_params:
        if name not in known:
            raise unknown_parameter(name)


def _query_fields(dependant: Any) -> list[Any]:
    inner = [field for part in dependant.dependencies for field in _query_fields(part)]
    return [*dependant.query_params, *inner]
