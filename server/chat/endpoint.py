"""The handler of `POST /v1/chat/completions`, called by the gate without the framework between."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from server.chat.fold import ChatFold
from server.chat.plan import plan_chat
from server.chat.schemas import ChatCompletionRequest
from server.chat.stream import ChatStream
from server.gate import call_of, read_body
from server.generation.serving import GenerationHolder
from server.sse import Reply
from server.validation import validate_body


class ChatEndpoint:
    def __init__(self, holder: GenerationHolder) -> None:
        self._holder = holder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services = self._holder.services
        call = call_of(scope)
        principal = call.authenticated
        body = await read_body(scope, receive, services.limits.max_body_bytes)
        request = validate_body(ChatCompletionRequest, body)
        plan = await plan_chat(request, principal, services.catalog, services.media)
        reply = Reply(send, call)
        if request.stream:
            output = ChatStream(plan, reply, services.keep_alive)
        else:
            output = ChatFold(plan, reply)
        try:
            await services.runner.run(
                principal,
                request.model,
                plan,
                output,
                receive,
                answers_per_prompt=len(plan.works),
            )
        finally:
            services.keep_alive.remove(reply)
        await reply.drained()
