"""The handler of `POST /v1/chat/completions`."""

from __future__ import annotations

from server.answering.plan import AnswerPlan, plan_answer
from server.auth import Principal
from server.chat.fold import ChatFold
from server.chat.schemas import ChatCompletionRequest
from server.chat.stream import ChatStream
from server.chat.translation import read_chat
from server.direct.reply import Reply
from server.generation.caller import Caller, Recipient
from server.generation.output import Output
from server.generation.serving import GenerationHolder
from server.validation import read_body


class ChatEndpoint:
    def __init__(self, holder: GenerationHolder) -> None:
        self._holder = holder

    async def __call__(self, principal: Principal, body: bytes, reply: Reply) -> None:
        request = await read_body(ChatCompletionRequest, body)
        if not request.stream:
            await self.answer(principal, request, reply)
            return
        plan = await self._plan(principal, request, reply)
        output = ChatStream(request, plan, reply, self._holder.services.keep_alive)
        self._run(principal, plan, output, reply)

    async def answer(
        self, principal: Principal, request: ChatCompletionRequest, recipient: Recipient
    ) -> None:
        """Answers as a whole, whatever `stream` says. Raises ApiError, and ClientGone."""
        plan = await self._plan(principal, request, recipient)
        self._run(principal, plan, ChatFold(request, plan, recipient), recipient)

    async def _plan(
        self, principal: Principal, request: ChatCompletionRequest, caller: Caller
    ) -> AnswerPlan:
        services = self._holder.services
        plan = await plan_answer(read_chat(request), principal, services.catalog, services.media)
        await services.runner.place(plan.base_model, caller)
        return plan

    def _run(self, principal: Principal, plan: AnswerPlan, output: Output, caller: Caller) -> None:
        self._holder.services.runner.run(
            principal,
            plan.request.model,
            plan,
            output,
            caller,
            answers_per_prompt=len(plan.works),
        )
