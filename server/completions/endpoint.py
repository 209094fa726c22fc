"""The handler of `POST /v1/completions`."""

from __future__ import annotations

from server.auth import Principal
from server.completions.fold import CompletionFold
from server.completions.plan import CompletionPlan, plan_completion
from server.completions.schemas import CompletionRequest
from server.completions.stream import CompletionStream
from server.direct.reply import Reply
from server.generation.caller import Caller, Recipient
from server.generation.output import Output
from server.generation.serving import GenerationHolder
from server.validation import read_body


class CompletionsEndpoint:
    def __init__(self, holder: GenerationHolder) -> None:
        self._holder = holder

    async def __call__(self, principal: Principal, body: bytes, reply: Reply) -> None:
        request = await read_body(CompletionRequest, body)
        if not request.stream:
            await self.answer(principal, request, reply)
            return
        plan = await self._plan(principal, request, reply)
        output = CompletionStream(plan, reply, self._holder.services.keep_alive)
        self._run(principal, plan, output, reply)

    async def answer(
        self, principal: Principal, request: CompletionRequest, recipient: Recipient
    ) -> None:
        """Answers as a whole, whatever `stream` says. Raises ApiError, and ClientGone."""
        plan = await self._plan(principal, request, recipient)
        self._run(principal, plan, CompletionFold(plan, recipient), recipient)

    async def _plan(
        self, principal: Principal, request: CompletionRequest, caller: Caller
    ) -> CompletionPlan:
        services = self._holder.services
        plan = await plan_completion(request, principal, services.catalog, services.pool)
        await services.runner.place(plan.base_model, caller)
        return plan

    def _run(
        self, principal: Principal, plan: CompletionPlan, output: Output, caller: Caller
    ) -> None:
        self._holder.services.runner.run(
            principal, plan, output, caller, answers_per_prompt=plan.tries
        )
