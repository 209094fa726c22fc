"""The handler of `POST /v1/chat/completions`."""

from __future__ import annotations

from server.auth import Principal
from server.chat.fold import ChatFold
from server.chat.plan import plan_chat
from server.chat.schemas import ChatCompletionRequest
from server.chat.stream import ChatStream
from server.direct.reply import Reply
from server.generation.serving import GenerationHolder
from server.validation import read_body


class ChatEndpoint:
    def __init__(self, holder: GenerationHolder) -> None:
        self._holder = holder

    async def __call__(self, principal: Principal, body: bytes, reply: Reply) -> None:
        services = self._holder.services
        request = await read_body(ChatCompletionRequest, body)
        plan = await plan_chat(request, principal, services.catalog, services.media)
        await services.runner.place(plan.base_model, reply)
        if request.stream:
            output = ChatStream(plan, reply, services.keep_alive)
        else:
            output = ChatFold(plan, reply)
        services.runner.run(
            principal, request.model, plan, output, reply, answers_per_prompt=len(plan.works)
        )
