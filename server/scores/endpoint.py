"""The handler of `POST /v1/score/evaluation`. A text is read as control text: its caller has
written the model's control tokens out."""

from __future__ import annotations

from uuid import uuid4

from server.auth import Principal
from server.direct.reply import Reply
from server.generation.answers import to_json
from server.generation.asking import ask_pooled, require_pooled
from server.generation.caller import Recipient
from server.generation.serving import GenerationHolder
from server.scores.schemas import ScoreRequest
from server.validation import read_body
from workers.contract.hello import Capability
from workers.contract.messages import Score, Scored
from workers.contract.parts import PromptPart, Text


class ScoresEndpoint:
    def __init__(self, holder: GenerationHolder) -> None:
        self._holder = holder

    async def __call__(self, principal: Principal, body: bytes, reply: Reply) -> None:
        await self.answer(principal, await read_body(ScoreRequest, body), reply)

    async def answer(
        self, principal: Principal, request: ScoreRequest, recipient: Recipient
    ) -> None:
        """Raises ApiError, and ClientGone."""
        services = self._holder.services
        served = await services.catalog.serve(request.model, principal)
        require_pooled(served, Capability.SCORE, "scores")
        inputs: list[list[PromptPart]] = [[Text(text, control=True)] for text in request.messages]
        answer = await ask_pooled(
            services,
            principal,
            served,
            lambda number: Score(number, inputs, served.adapter, request.max_length),
            recipient,
        )
        assert isinstance(answer, Scored)
        result = {
            "id": f"scoreval-{uuid4().hex}",
            "object": "score.evaluation",
            "model": request.model,
            "scores": answer.scores,
        }
        recipient.answer(200, to_json(result))
