"""The OpenAPI document, made to say what the service does: OpenAI's error envelope instead of the
framework's 422, and a bearer key on every `/v1` path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi.openapi.constants import REF_TEMPLATE
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
_REFUSALS = {
    "400": "The request is wrong; `param` names the field.",
    "401": "No API key, or a wrong one.",
}
_MISSING = ("404", "There is no such object in the caller's project.")


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body itself; `document` must be told of `model`."""
    schema = {"$ref": REF_TEMPLATE.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def document(
    title: str, version: str, routes: list[BaseRoute], bodies: Sequence[type[BaseModel]]
) -> dict[str, Any]:
    """The document of `routes`, as `openapi.yaml` and `/openapi.json` hold it. `bodies` are those
    of routes with `json_body`."""
    schema = get_openapi(title=title, version=version, routes=routes)
    for path, operation in _operations(schema):
        responses: dict[str, Any] = operation["responses"]
        responses.pop("422", None)
        if not path.startswith("/v1"):
            continue
        operation["security"] = [{"key": []}]
        refusals = dict([*_REFUSALS.items(), *([_MISSING] if "{" in path else [])])
        for status, description in refusals.items():
            responses.setdefault(status, {"description": description, "content": _ERROR})
    components = schema["components"]
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    _, definitions = models_json_schema(
        [(body, "validation") for body in bodies], ref_template=REF_TEMPLATE
    )
    components["schemas"] = dict(sorted({**components["schemas"], **definitions["$defs"]}.items()))
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return schema


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            yield path, operation
