"""Embeddings and scores: checks and tokenises the inputs of `Embed` and `Score`; answers them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from workers.contract.hello import Capability
from workers.contract.messages import Embed, Embedded, FailureKind, Score, Scored
from workers.contract.parts import PromptPart, Text, Tokens
from workers.engine.backend import Description, PoolingHost, RefusedError
from workers.engine.checks import RequestChecks
from workers.engine.text.vocabulary import Vocabulary

MAX_TOKENS_A_REQUEST = 300_000
"""OpenAI's limit on the tokens of all inputs of one embeddings request."""
_INLINE_CHARS = 20_000


class PooledRequests:
    def __init__(
        self,
        host: PoolingHost | None,
        description: Description,
        vocabulary: Vocabulary,
        checks: RequestChecks,
    ) -> None:
        self._host = host
        self._description = description
        self._vocabulary = vocabulary
        self._checks = checks

    async def answer(self, request: Embed | Score) -> Embedded | Scored:
        """Raises RefusedError."""
        if isinstance(request, Embed):
            host = self._require(Capability.EMBED, "embeddings")
            prompts = await self._prompts(request, "input", host, None)
            self._check_adapter(request)
            vectors = await host.embed(prompts, request.dimensions, request.adapter)
            return Embedded(request.id, vectors, sum(map(len, prompts)))
        host = self._require(Capability.SCORE, "scores")
        if request.adapter is not None:
            raise RefusedError(
                FailureKind.UNSUPPORTED, "Scores are not served with an adapter.", "model"
            )
        prompts = await self._prompts(request, "messages", host, request.max_length)
        return Scored(request.id, await host.score(prompts), sum(map(len, prompts)))

    def _require(self, capability: Capability, what: str) -> PoolingHost:
        if self._host is None or capability not in self._description.capabilities:
            raise RefusedError(FailureKind.UNSUPPORTED, f"This model serves no {what}.", "model")
        return self._host

    def _check_adapter(self, request: Embed) -> None:
        if request.adapter is not None and Capability.LORA not in self._description.capabilities:
            raise RefusedError(
                FailureKind.UNSUPPORTED, "The engine of this model serves no adapters.", "model"
            )

    async def _prompts(
        self, request: Embed | Score, param: str, host: PoolingHost, max_length: int | None
    ) -> list[list[int]]:
        inputs = request.inputs
        if not inputs:
            raise _invalid(f"{param} must not be empty.", param)
        chars = 0
        for parts in inputs:
            for part in parts:
                if isinstance(part, Tokens):
                    self._checks.token_ids(part.ids, param)
                else:
                    chars += len(part.text)
        encode = self._encode_all
        prompts = (
            await asyncio.to_thread(encode, inputs, host)
            if chars > _INLINE_CHARS
            else encode(inputs, host)
        )
        if max_length is not None:
            prompts = [prompt[:max_length] for prompt in prompts]
        self._check_lengths(prompts, param)
        return prompts

    def _encode_all(
        self, inputs: Sequence[Sequence[PromptPart]], host: PoolingHost
    ) -> list[list[int]]:
        """Token inputs are used as they are; text is framed as the model was trained on it."""
        prompts: list[list[int]] = []
        for parts in inputs:
            ids = self._vocabulary.encode(parts)
            if ids and any(isinstance(part, Text) for part in parts):
                ids = host.frame(ids)
            prompts.append(ids)
        return prompts

    def _check_lengths(self, prompts: list[list[int]], param: str) -> None:
        limit = self._description.max_model_len
        for prompt in prompts:
            if not prompt:
                raise _invalid(f"{param} must not hold an empty text.", param)
            if len(prompt) > limit:
                raise RefusedError(
                    FailureKind.CONTEXT_LENGTH_EXCEEDED,
                    f"This model's maximum context length is {limit} tokens. However, an input "
                    f"has {len(prompt)} tokens. Please reduce its length.",
                    param,
                )
        total = sum(map(len, prompts))
        if total > MAX_TOKENS_A_REQUEST:
            raise _invalid(
                f"The inputs have {total} tokens; a request may have {MAX_TOKENS_A_REQUEST}.", param
            )


def _invalid(message: str, param: str) -> RefusedError:
    return RefusedError(FailureKind.INVALID_REQUEST, message, param)
