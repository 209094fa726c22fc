"""`/v1/models`: what there is, one by its id or alias, and a project's own aliases. Ids may hold
`/` and `:`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter

from server.auth import Caller
from server.bodies import json_of
from server.config.model_names import alias_fault
from server.errors import InvalidRequest, ModelNotFound, PermissionDenied, invalid_value
from server.models.services import ModelsServices
from server.openapi import json_body, refusals
from server.store.aliases import NameTakenError, TooManyAliasesError
from server.store.records import Alias, Model
from server.wire import ModelName, RequestBody, ResponseBody
from workers.contract.messages import UnloadAdapter

router = APIRouter(tags=["Models"])

MAX_ALIASES = 1000
"""Of a project."""


class MoveAlias(RequestBody):
    points_to: ModelName
    """The id of a model that the project may use."""


class ModelBody(ResponseBody):
    """`parent` is what a fine-tune was made from, `root` the base model at the bottom."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    shutdown_date: str | None = None
    root: str
    parent: str | None
    points_to: str | None = None
    """Of an alias: the id of the model that answers."""
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
    first; then the aliases."""
    models = await services.store.models.list_for(caller.project.id)
    aliases = await services.store.aliases.list_for(caller.project.id)
    listed = [_body(model, services) for model in models]
    listed += [_body(model, services, alias) for alias, model in aliases]
    named = caller.models
    return ModelList(data=[each for each in listed if named is None or each.id in named])


@router.get("/v1/models/{model:path}", summary="Retrieve a model")
async def retrieve_model(model: str, caller: Caller, services: ModelsServices) -> ModelBody:
    caller.check_model(model)
    return await _retrieve(model, caller.project.id, services)


@router.post(
    "/v1/models/{model:path}",
    openapi_extra=json_body(MoveAlias),
    responses=refusals(507),
    summary="Make or move an alias",
)
async def move_alias(
    model: str,
    wanted: Annotated[MoveAlias, json_of(MoveAlias)],
    caller: Caller,
    services: ModelsServices,
) -> ModelBody:
    """Make an alias of the project's own point to a model. Its requests that name the alias are
    answered by that model from then on, also where the configuration has an alias of that name."""
    caller.check_model(model)
    caller.check_model(wanted.points_to)
    if (fault := alias_fault(model)) is not None:
        raise invalid_value("model", fault)
    project_id = caller.project.id
    target = await services.store.models.find(wanted.points_to, project_id)
    if target is None:
        raise _wrong_target(f"The model '{wanted.points_to}' does not exist.", "model_not_found")
    if target.id != wanted.points_to:
        raise _wrong_target(f"'{wanted.points_to}' is an alias itself.", "invalid_value")
    try:
        await services.store.aliases.put(project_id, model, target.id, MAX_ALIASES)
    except NameTakenError:
        raise invalid_value("model", f"A model of this server is named '{model}'.") from None
    except TooManyAliasesError:
        raise invalid_value("model", f"A project has {MAX_ALIASES} aliases at most.") from None
    services.catalog.forget(model, project_id)
    return await _retrieve(model, project_id, services)


@router.delete(
    "/v1/models/{model:path}",
    responses=refusals(403, 507),
    summary="Delete a fine-tuned model or an alias",
)
async def delete_model(model: str, caller: Caller, services: ModelsServices) -> ModelDeleted:
    """Requests under way finish; new ones find no such model. Of an alias, the model stays."""
    caller.check_model(model)
    project_id = caller.project.id
    if await services.store.aliases.delete(project_id, model):
        services.catalog.forget(model, project_id)
        return ModelDeleted(id=model, deleted=True)
    found = await services.store.models.find(model, project_id)
    if found is None:
        raise ModelNotFound(model)
    if found.project_id is None or found.id != model:
        raise _may_not_delete(model, "is part of this server's configuration")
    if found.project_id != project_id:
        raise _may_not_delete(model, "is another project's")
    if await services.store.models.delete(model, project_id, caller.actor) is None:
        raise ModelNotFound(model)
    services.catalog.forget_model(model)
    if found.adapter_uid is not None:
        for connection in services.pool.connections(found.engine_model):
            connection.tell(lambda number: UnloadAdapter(number, found.adapter_name))
    return ModelDeleted(id=model, deleted=True)


def _wrong_target(message: str, code: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid 'points_to': {message}", param="points_to", code=code)


def _may_not_delete(model: str, why: str) -> PermissionDenied:
    return PermissionDenied(
        f"The model '{model}' {why} and cannot be deleted.",
        param="model",
        code="model_not_allowed",
    )


async def _retrieve(model: str, project_id: str, services: ModelsServices) -> ModelBody:
    """Raises ModelNotFound."""
    found = await services.store.models.find(model, project_id)
    if found is None:
        raise ModelNotFound(model)
    if found.id == model:
        return _body(found, services)
    alias = await services.store.aliases.find(project_id, model)
    return _body(found, services, alias)


def _body(model: Model, services: ModelsServices, alias: Alias | None = None) -> ModelBody:
    connections = services.pool.connections(model.engine_model)
    hello = connections[0].hello if connections else None
    return ModelBody(
        id=model.id if alias is None else alias.name,
        created=model.created_at if alias is None else alias.created_at,
        owned_by=model.owned_by,
        root=model.base,
        parent=model.parent,
        points_to=None if alias is None else alias.points_to,
        max_model_len=None if hello is None else hello.max_model_len,
        template_difference=None if hello is None else hello.template_difference,
        compatibility_mode=None if hello is None else hello.compatibility,
    )
