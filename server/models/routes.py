"""`GET /v1/models`, and one model by id. Ids may hold `/` and `:`."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter

from server.auth import Caller
from server.errors import ModelNotFound, PermissionDenied
from server.models.services import ModelsServices
from server.openapi import refusals
from server.store.records import Model
from server.wire import ResponseBody
from workers.contract.messages import UnloadAdapter

router = APIRouter(tags=["Models"])


class ModelBody(ResponseBody):
    """`parent` is what a fine-tune was made from, `root` the base model at the bottom."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    shutdown_date: str | None = None
    root: str
    parent: str | None
    max_model_len: int | None = None
    template_difference: str | None = None
    """Where the chat format that the operator named differs from the model's own template."""
    compatibility_mode: str | None = None
    """Why the engine runs this model one sequence at a time; null where it batches."""


class ModelList(ResponseBody):
    object: Literal["list"] = "list"
    data: list[ModelBody]


class ModelDeleted(ResponseBody):
    id: str
    object: Literal["model"] = "model"
    deleted: bool


@router.get("/v1/models", summary="List models")
async def list_models(caller: Caller, services: ModelsServices) -> ModelList:
    """The configured models, adapters included, and the project's own fine-tuned ones, oldest
    first."""
    models = await services.store.models.list_for(caller.project.id)
    return ModelList(data=[_body(model, services) for model in models])


@router.get("/v1/models/{model:path}", summary="Retrieve a model")
async def retrieve_model(model: str, caller: Caller, services: ModelsServices) -> ModelBody:
    found = await services.store.models.find(model, caller.project.id)
    if found is None:
        raise ModelNotFound(model)
    return _body(found, services)


@router.delete(
    "/v1/models/{model:path}", responses=refusals(403, 507), summary="Delete a fine-tuned model"
)
async def delete_model(model: str, caller: Caller, services: ModelsServices) -> ModelDeleted:
    """Requests under way finish; new ones find no such model."""
    found = await services.store.models.find(model, caller.project.id)
    if found is None:
        raise ModelNotFound(model)
    if found.project_id is None:
        raise PermissionDenied(
            f"The model '{model}' is part of this server's configuration and cannot be deleted.",
            param="model",
            code="model_not_allowed",
        )
    if await services.store.models.delete(model, caller.project.id) is None:
        raise ModelNotFound(model)
    services.catalog.forget(model, caller.project.id)
    if found.adapter_uid is not None:
        for connection in services.pool.connections(found.engine_model):
            connection.tell(lambda number: UnloadAdapter(number, found.adapter_name))
    return ModelDeleted(id=model, deleted=True)


def _body(model: Model, services: ModelsServices) -> ModelBody:
    connections = services.pool.connections(model.engine_model)
    hello = connections[0].hello if connections else None
    return ModelBody(
        id=model.id,
        created=model.created_at,
        owned_by=model.owned_by,
        root=model.base,
        parent=model.parent,
        max_model_len=None if hello is None else hello.max_model_len,
        template_difference=None if hello is None else hello.template_difference,
        compatibility_mode=None if hello is None else hello.compatibility,
    )
