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

from server.error_shapes import is_anthropic
from server.wire import ErrorBody, MessageErrorBody

_SCHEMAS = "#/components/schemas"
_REFUSALS = {
    400: "The request is wrong; `param` names the field.",
    401: "No API key, or a wrong one.",
    403: "The caller may not do this.",
    404: "There is no such object in the caller's project, or no such model.",
    408: "The request arrived too slowly.",
    409: "Another request with this `Idempotency-Key` is under way, or was another.",
    413: "The body is too large.",
    415: "The body's content encoding is not read.",
    429: "Too many requests; see `Retry-After`.",
    500: "A fault of the server; the `x-request-id` header names it in its logs.",
    503: "The server, or the model's engine, cannot take the request now; see `Retry-After`.",
    507: "The server has no room left to store this.",
}
_CONTENT: dict[type[BaseModel], dict[str, Any]] = {
    model: {"application/json": {"schema": {"$ref": f"{_SCHEMAS}/{model.__name__}"}}}
    for model in (ErrorBody, MessageErrorBody)
}
"""One object for each, so that YAML writes it once."""
_EVERYWHERE = (400, 401, 403, 500, 503)
_WITH_BODY = (408, 413, 415)


def _errors_of(path: str) -> type[BaseModel]:
    return MessageErrorBody if is_anthropic(path) else ErrorBody


def refusals(*statuses: int, path: str = "") -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: what it answers besides what `document` adds to all."""
    return {
        status: {"model": _errors_of(path), "description": _REFUSALS[status]} for status in statuses
    }


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
        for status in _statuses(path, operation):
            refusal = {"description": _REFUSALS[status], "content": _CONTENT[_errors_of(path)]}
            responses.setdefault(str(status), refusal)
        operation["responses"] = dict(sorted(responses.items()))
    components = schema["components"]
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    _, definitions = models_json_schema(
        [(body, "validation") for body in bodies], ref_template=REF_TEMPLATE
    )
    components["schemas"] = dict(sorted({**components["schemas"], **definitions["$defs"]}.items()))
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return schema


def _statuses(path: str, operation: dict[str, Any]) -> Iterator[int]:
    yield from _EVERYWHERE
    if "requestBody" in operation:
        yield from _WITH_BODY
    if "{" in path:
        yield 404


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            yield path, operation
