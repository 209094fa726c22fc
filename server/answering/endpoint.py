"""The handler of an endpoint that answers conversations, made of the endpoint's own parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from server.answering.plan import AnswerPlan, plan_answer
from server.answering.request import AnswerRequest
from server.auth import Principal
from server.direct.keep_alive import KeepAlive
from server.direct.reply import Reply
from server.generation.caller import Caller, Recipient
from server.generation.output import Output
from server.generation.serving import GenerationHolder
from server.validation import read_body
from server.wire import StreamableBody

BodyT = TypeVar("BodyT", bound=StreamableBody)


class AnsweringEndpoint(Generic[BodyT]):
    """Asked with a `body`, of which `translate` says what is asked. `stream` and `whole` make the
    two outputs."""

    def __init__(
        self,
        holder: GenerationHolder,
        body: type[BodyT],
        translate: Callable[[BodyT], AnswerRequest],
        stream: Callable[[BodyT, AnswerPlan, Reply, KeepAlive], Output],
        whole: Callable[[BodyT, AnswerPlan, Recipient], Output],
    ) -> None:
        self._holder = holder
        self._body = body
        self._translate = translate
        self._stream = stream
        self._whole = whole

    async def __call__(self, principal: Principal, body: bytes, reply: Reply) -> None:
        request = await read_body(self._body, body)
        if not request.stream:
            await self.answer(principal, request, reply)
            return
        plan = await self._plan(principal, request, reply)
        self._run(principal, plan, self.streamed(principal, request, plan, reply), reply)

    async def answer(self, principal: Principal, request: BodyT, recipient: Recipient) -> None:
        """Answers as a whole, whatever `stream` says. Raises ApiError, and ClientGone."""
        plan = await self._plan(principal, request, recipient)
        self._run(principal, plan, self.folded(principal, request, plan, recipient), recipient)

    def streamed(
        self, principal: Principal, request: BodyT, plan: AnswerPlan, reply: Reply
    ) -> Output:
        """Raises ApiError."""
        return self._stream(request, plan, reply, self._holder.services.keep_alive)

    def folded(
        self, principal: Principal, request: BodyT, plan: AnswerPlan, recipient: Recipient
    ) -> Output:
        """Raises ApiError."""
        return self._whole(request, plan, recipient)

    async def _plan(self, principal: Principal, request: BodyT, caller: Caller) -> AnswerPlan:
        services, asked = self._holder.services, self._translate(request)
        plan = await plan_answer(asked, principal, services.catalog, services.media)
        await services.runner.place(plan.base_model, caller)
        return plan

    def _run(self, principal: Principal, plan: AnswerPlan, output: Output, caller: Caller) -> None:
        self._holder.services.runner.run(
            principal,
            plan,
            output,
            caller,
            answers_per_prompt=len(plan.works),
        )
