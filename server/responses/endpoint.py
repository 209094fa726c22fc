"""The handler of `POST /v1/responses`."""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol

from server.answering.plan import AnswerPlan, plan_answer
from server.auth import Principal
from server.direct.reply import Reply
from server.generation.answers import to_json
from server.generation.caller import Caller, Recipient
from server.generation.output import Output
from server.generation.serving import GenerationServices
from server.responses.context import Context, ContextLoader
from server.responses.counting import plan_truncated
from server.responses.ids import ItemIds
from server.responses.keeping import MAX_STORED_BYTES, Keeper, Place, too_large
from server.responses.objects import response_fields
from server.responses.output import ResponseFold, ResponseStream
from server.responses.schemas import CreateResponse
from server.responses.stored_input import stored_input
from server.responses.translation import THOUGHTS, read_response, refuse_unsupported
from server.store import Store
from server.validation import read_body


class ResponseServices(GenerationServices, Protocol):
    @property
    def store(self) -> Store: ...
    @property
    def keeper(self) -> Keeper: ...
    @property
    def contexts(self) -> ContextLoader: ...


class ResponseHolder(Protocol):
    @property
    def services(self) -> ResponseServices: ...


class ResponsesEndpoint:
    def __init__(self, holder: ResponseHolder) -> None:
        self._holder = holder

    async def __call__(self, principal: Principal, body: bytes, reply: Reply) -> None:
        request = await read_body(CreateResponse, body)
        if not request.stream:
            await self.answer(principal, request, reply)
            return
        ids = ItemIds()
        plan, place = await self._plan(principal, request, ids, reply)
        options = request.stream_options
        output = ResponseStream(
            plan,
            ids,
            response_fields(
                request, plan, ids.response_id, int(time.time()), stored=place is not None
            ),
            place,
            reply,
            self._holder.services.keep_alive,
            seals_thoughts=THOUGHTS in (request.include or ()),
            obfuscates=bool(options and options.include_obfuscation),
        )
        self._run(principal, plan, output, reply)

    async def answer(
        self, principal: Principal, request: CreateResponse, recipient: Recipient
    ) -> None:
        """Answers as a whole. Raises ApiError, and ClientGone."""
        ids = ItemIds()
        plan, place = await self._plan(principal, request, ids, recipient)
        fields = response_fields(
            request, plan, ids.response_id, int(time.time()), stored=place is not None
        )
        seals_thoughts = THOUGHTS in (request.include or ())
        output = ResponseFold(plan, ids, fields, place, recipient, seals_thoughts=seals_thoughts)
        self._run(principal, plan, output, recipient)

    async def _plan(
        self, principal: Principal, request: CreateResponse, ids: ItemIds, caller: Caller
    ) -> tuple[AnswerPlan, Place | None]:
        services = self._holder.services
        refuse_unsupported(request)
        await services.catalog.find(request.model, principal)
        context = await services.contexts.load(
            principal.project.id, request.input, request.previous_response_id
        )
        wanted = read_response(request, context)
        place = self._place(principal, request, context, ids)
        plan_request = partial(
            plan_answer, principal=principal, catalog=services.catalog, loader=services.media
        )
        if request.truncation == "auto":
            with services.runner.room(principal, 1):
                plan = await plan_truncated(wanted, plan_request, services.pool)
        else:
            plan = await plan_request(wanted)
        await services.runner.place(plan.base_model, caller)
        return plan, place

    def _place(
        self, principal: Principal, request: CreateResponse, context: Context, ids: ItemIds
    ) -> Place | None:
        """None if it is not kept. Raises InvalidRequest if that was asked for and cannot be."""
        if request.store is False:
            return None
        items = to_json(stored_input(context.own, ids))
        if len(items) > MAX_STORED_BYTES:
            if request.store:
                raise too_large()
            return None
        return Place(
            self._holder.services.keeper,
            principal.project.id,
            context.previous,
            items,
            is_asked=bool(request.store),
        )

    def _run(self, principal: Principal, plan: AnswerPlan, output: Output, caller: Caller) -> None:
        self._holder.services.runner.run(principal, plan, output, caller)
