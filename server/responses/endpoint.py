"""The handler of `POST /v1/responses`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Protocol

from server.answering.plan import AnswerPlan
from server.auth import Principal
from server.direct.reply import Reply, model_header
from server.generation.answers import to_json
from server.generation.caller import Caller, Recipient
from server.generation.detached import DetachedCaller
from server.generation.output import Output
from server.keeping import MAX_STORED_BYTES, Keeper
from server.responses.background import Background
from server.responses.context import Context
from server.responses.event_log import events_gone
from server.responses.ids import ItemIds
from server.responses.keeping import Place, too_large
from server.responses.objects import response_fields
from server.responses.output import BegunResponse, ResponseFold, ResponseStream
from server.responses.planning import PlanningServices, load_context, plan_as_asked
from server.responses.schemas import CreateResponse
from server.responses.stored_input import stored_input
from server.responses.translation import THOUGHTS, read_response
from server.sse import KEEP_ALIVE, SSE_HEADERS
from server.store import Store
from server.store.responses import StoredResponse
from server.validation import read_body


class ResponseServices(PlanningServices, Protocol):
    @property
    def store(self) -> Store: ...
    @property
    def keeper(self) -> Keeper[StoredResponse]: ...
    @property
    def background(self) -> Background: ...


class ResponseHolder(Protocol):
    @property
    def services(self) -> ResponseServices: ...


class ResponsesEndpoint:
    def __init__(self, holder: ResponseHolder) -> None:
        self._holder = holder

    async def __call__(self, principal: Principal, body: bytes, reply: Reply) -> None:
        request = await read_body(CreateResponse, body)
        if request.background:
            await self._answer_in_background(principal, request, reply)
            return
        if not request.stream:
            await self.answer(principal, request, reply)
            return
        begun = await self._begin(principal, request, reply)
        output = ResponseStream(
            begun,
            reply,
            self._holder.services.keep_alive,
            obfuscates=_obfuscates(request),
        )
        self._run(principal, begun.plan, output, reply)

    async def answer(
        self, principal: Principal, request: CreateResponse, recipient: Recipient
    ) -> None:
        """Answers as a whole. Raises ApiError, and ClientGone."""
        begun = await self._begin(principal, request, recipient)
        self._run(principal, begun.plan, ResponseFold(begun, recipient), recipient)

    async def _answer_in_background(
        self, principal: Principal, request: CreateResponse, reply: Reply
    ) -> None:
        """Answers while it is queued, or sends its events. Raises ApiError."""
        services = self._holder.services
        begun = await self._plan(principal, request)
        place = begun.place
        assert place is not None, "what is in the background is kept"

        async def start(output: Output, caller: Caller) -> None:
            await services.runner.place(begun.plan.base_model, caller)
            self._run(principal, begun.plan, output, caller)

        body, log = await services.background.create(
            replace(begun, place=None),
            place,
            DetachedCaller(principal),
            start,
            obfuscates=_obfuscates(request),
        )
        header = model_header(begun.plan.served.model.id)
        if not request.stream:
            reply.answer(200, body, (header,))
            return
        reply.start(200, (*SSE_HEADERS, header))
        services.keep_alive.add(reply)
        async for events, is_last in log.follow(0):
            if reply.over:
                return
            if is_last:
                reply.end(events or KEEP_ALIVE)
            elif events:
                reply.write(events)
        reply.refuse(events_gone())

    async def _begin(
        self, principal: Principal, request: CreateResponse, caller: Caller
    ) -> BegunResponse:
        begun = await self._plan(principal, request)
        await self._holder.services.runner.place(begun.plan.base_model, caller)
        return begun

    async def _plan(self, principal: Principal, request: CreateResponse) -> BegunResponse:
        services, ids = self._holder.services, ItemIds()
        context = await load_context(request, principal, services)
        wanted = read_response(request, context)
        place = self._place(principal, request, context, ids)
        plan = await plan_as_asked(request, wanted, principal, services)
        created_at, stored = int(time.time()), place is not None
        return BegunResponse(
            plan,
            ids,
            response_fields(request, plan, ids.response_id, created_at, stored=stored),
            place,
            seals_thoughts=THOUGHTS in (request.include or ()),
        )

    def _place(
        self, principal: Principal, request: CreateResponse, context: Context, ids: ItemIds
    ) -> Place | None:
        """None if it is not kept. Raises InvalidRequest if that was asked for and cannot be."""
        if request.store is False:
            return None
        items = to_json(stored_input(context.own, ids))
        if len(items) > MAX_STORED_BYTES:
            if request.store or request.background:
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


def _obfuscates(request: CreateResponse) -> bool:
    options = request.stream_options
    return bool(options and options.include_obfuscation)
