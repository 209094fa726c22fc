"""The handler of `POST /v1/completions`, called by the gate without the framework between."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from server.completions.fold import CompletionFold
from server.completions.plan import plan_completion
from server.completions.schemas import CompletionRequest
from server.completions.stream import CompletionStream
from server.gate import call_of, read_body
from server.generation.serving import GenerationHolder
from server.sse import Reply
from server.validation import validate_body


class CompletionsEndpoint:
    def __init__(self, holder: GenerationHolder) -> None:
        self._holder = holder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services = self._holder.services
        call = call_of(scope)
        principal = call.authenticated
        body = await read_body(scope, receive, services.limits.max_body_bytes)
        request = validate_body(CompletionRequest, body)
        plan = await plan_completion(request, principal, services.catalog, services.pool)
        reply = Reply(send, call)
        if request.stream:
            output = CompletionStream(plan, reply, services.keep_alive)
        else:
            output = CompletionFold(plan, reply)
        try:
            await services.runner.run(
                principal, request.model, plan, output, receive, answers_per_prompt=plan.tries
            )
        finally:
            services.keep_alive.remove(reply)
        await reply.drained()
