"""The handler of `POST /v1/embeddings`.

Text is content: a control token that it spells is read as plain characters.
"""

from __future__ import annotations

import base64
import struct
from typing import Any

from server.auth import Principal
from server.direct.reply import Reply, model_header
from server.embeddings.schemas import EmbeddingRequest
from server.generation.answers import to_json
from server.generation.asking import ask_pooled, require_pooled
from server.generation.caller import Recipient
from server.generation.serving import GenerationHolder
from server.validation import read_body
from workers.contract.hello import Capability
from workers.contract.messages import Embed, Embedded
from workers.contract.parts import PromptPart, Text, Tokens


class EmbeddingsEndpoint:
    def __init__(self, holder: GenerationHolder) -> None:
        self._holder = holder

    async def __call__(self, principal: Principal, body: bytes, reply: Reply) -> None:
        await self.answer(principal, await read_body(EmbeddingRequest, body), reply)

    async def answer(
        self, principal: Principal, request: EmbeddingRequest, recipient: Recipient
    ) -> None:
        """Raises ApiError, and ClientGone."""
        services = self._holder.services
        served = await services.catalog.serve(request.model, principal)
        require_pooled(served, Capability.EMBED, "embeddings")
        inputs = _inputs(request)
        answer = await ask_pooled(
            services,
            principal,
            served,
            lambda number: Embed(number, inputs, request.dimensions, served.adapter),
            recipient,
        )
        assert isinstance(answer, Embedded)
        recipient.answer(200, to_json(_body(request, answer)), (model_header(served.model.id),))


def _inputs(request: EmbeddingRequest) -> list[list[PromptPart]]:
    given = request.input
    if isinstance(given, str):
        return [[Text(given)]]
    if isinstance(given[0], int):
        return [[Tokens([token for token in given if isinstance(token, int)])]]
    inputs: list[list[PromptPart]] = []
    for entry in given:
        if isinstance(entry, str):
            inputs.append([Text(entry)])
        elif isinstance(entry, list):
            inputs.append([Tokens(entry)])
    return inputs


def _body(request: EmbeddingRequest, answer: Embedded) -> dict[str, Any]:
    spell = _base64 if request.encoding_format == "base64" else _floats
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": spell(vector)}
            for index, vector in enumerate(answer.vectors)
        ],
        "model": request.model,
        "usage": {"prompt_tokens": answer.prompt_tokens, "total_tokens": answer.prompt_tokens},
    }


def _base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()


def _floats(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)
