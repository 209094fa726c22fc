"""The handler of `POST /v1/completions`."""

from __future__ import annotations

from server.auth import Principal
from server.completions.fold import CompletionFold
from server.completions.plan import plan_completion
from server.completions.schemas import CompletionRequest
from server.completions.stream import CompletionStream
from server.direct.reply import Reply
from server.generation.serving import GenerationHolder
from server.validation import read_body


class CompletionsEndpoint:
    def __init__(self, holder: GenerationHolder) -> None:
        self._holder = holder

    async def __call__(self, principal: Principal, body: bytes, reply: Reply) -> None:
        services = self._holder.services
        request = await read_body(CompletionRequest, body)
        plan = await plan_completion(request, principal, services.catalog, services.pool)
        await services.runner.place(plan.base_model, reply)
        if request.stream:
            output = CompletionStream(plan, reply, services.keep_alive)
        else:
            output = CompletionFold(plan, reply)
        services.runner.run(
            principal, request.model, plan, output, reply, answers_per_prompt=plan.tries
        )
