"""The handler of `POST /v1/messages/count_tokens`."""

from __future__ import annotations

from server.answering.plan import plan_answer
from server.auth import Principal
from server.direct.reply import Reply
from server.generation.answers import to_json
from server.generation.caller import Recipient
from server.generation.serving import GenerationHolder
from server.messages.schemas import CountMessageTokens
from server.messages.translation import read_count
from server.responses.counting import count_tokens
from server.validation import read_body


class MessageTokensEndpoint:
    def __init__(self, holder: GenerationHolder) -> None:
        self._holder = holder

    async def __call__(self, principal: Principal, body: bytes, reply: Reply) -> None:
        request = await read_body(CountMessageTokens, body)
        await self.answer(principal, request, reply)

    async def answer(
        self, principal: Principal, request: CountMessageTokens, recipient: Recipient
    ) -> None:
        """Raises ApiError."""
        services = self._holder.services
        with services.runner.room(principal, 1):
            plan = await plan_answer(
                read_count(request), principal, services.catalog, services.media
            )
            counted = await count_tokens(services.pool, plan, "messages")
        recipient.answer(200, to_json({"input_tokens": counted}))
