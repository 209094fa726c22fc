"""What creating a response and counting its tokens have in common: from the body to the plan."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from server.answering.plan import AnswerPlan, plan_answer
from server.answering.request import AnswerRequest
from server.auth import Principal
from server.generation.serving import GenerationServices
from server.responses.context import Context, ContextLoader
from server.responses.counting import plan_truncated
from server.responses.schemas import CountTokens, CreateResponse
from server.responses.translation import refuse_unsupported


class PlanningServices(GenerationServices, Protocol):
    @property
    def contexts(self) -> ContextLoader: ...


async def load_context(
    body: CreateResponse | CountTokens, principal: Principal, services: PlanningServices
) -> Context:
    """What the model is shown. Raises ApiError for what the body alone, its model or its
    `previous_response_id` makes impossible."""
    refuse_unsupported(body)
    await services.catalog.find(body.model, principal)
    return await services.contexts.load(principal.project.id, body.input, body.previous_response_id)


async def plan_as_asked(
    body: CreateResponse | CountTokens,
    request: AnswerRequest,
    principal: Principal,
    services: PlanningServices,
) -> AnswerPlan:
    """The plan of the body's `request`, truncated if the body says so. Raises ApiError."""
    plan_request = partial(
        plan_answer, principal=principal, catalog=services.catalog, loader=services.media
    )
    if body.truncation != "auto":
        return await plan_request(request)
    with services.runner.room(principal, 1):
        return await plan_truncated(request, plan_request, services.pool)
