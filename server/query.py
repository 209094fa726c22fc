"""What comes behind a route's `?`."""

from __future__ import annotations

import re
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute

from server.errors import InvalidRequest, unknown_parameter

_METADATA_PARAM = re.compile(r"metadata\[(.*)\]", re.DOTALL)


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


def metadata_filter(request: Request) -> tuple[dict[str, str], bool]:
    """The pairs of `metadata[key]=value`, and whether those without any are asked for
    (`metadata=null`). Raises InvalidRequest."""
    pairs: dict[str, str] = {}
    without = False
    for name, value in request.query_params.multi_items():
        if (match := _METADATA_PARAM.fullmatch(name)) is not None:
            pairs[match[1]] = value
        elif name == "metadata":
            if value not in ("null", ""):
                raise InvalidRequest(
                    "Invalid 'metadata': expected metadata[key]=value, or null.",
                    param="metadata",
                    code="invalid_value",
                )
            without = True
    return pairs, without
