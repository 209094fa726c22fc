"""Everything about a legacy completion request that can be decided before an engine sees it.

A text prompt is tokenised as Hugging Face's `tokenizer(prompt)` does: whoever completes raw text
may write the model's control tokens out, and a tokenizer that begins texts with a BOS adds it.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from server.auth import Principal
from server.completions.schemas import DEFAULT_MAX_TOKENS, CompletionRequest
from server.engines.client import Work
from server.engines.pool import EnginePool
from server.errors import (
    ApiError,
    from_failure,
    invalid_value,
    unsupported_parameter,
)
from server.generation.affinity import prompt_key
from server.generation.sampling import Guide, check_guide, plan_sampling, require, seeded
from server.generation.wire_fields import read_guide, read_sampling
from server.models.catalog import Catalog, Served
from workers.contract.hello import Capability
from workers.contract.messages import Detokenize, Detokenized, Failed
from workers.contract.parts import PromptPart, Sampling, Text, Tokens


@dataclass(frozen=True, slots=True)
class CompletionPlan:
    request: CompletionRequest
    served: Served
    works: list[Work]
    """For each prompt in turn, `tries` sequences."""
    tries: int
    """`best_of`: how many are generated for a prompt, of which `n` are answered."""
    echoes: list[str | None]
    """Each prompt's text, where the answer begins with it."""
    guide: Guide | None

    @property
    def engine_model(self) -> str:
        return self.served.model.engine_model

    @property
    def base_model(self) -> str:
        return self.served.model.base

    @property
    def affinity(self) -> str | None:
        return prompt_key(self.works[0].prompt)

    @property
    def num_answers(self) -> int:
        return self.request.n or 1

    def echo(self, index: int) -> str:
        """What the text of sequence `index` begins with."""
        return self.echoes[index // self.tries] or ""

    def name_error(self, error: ApiError) -> ApiError:
        if error.param == "messages":
            error.param = "prompt"
        if error.code == "invalid_json_schema" and self.guide is not None:
            error.param, error.code = self.guide.param, "invalid_value"
        return error


async def plan_completion(
    request: CompletionRequest, principal: Principal, catalog: Catalog, pool: EnginePool
) -> CompletionPlan:
    """Raises ApiError."""
    _refuse_unsupported(request)
    served = await catalog.serve(request.model, principal)
    prompts = _prompts(request)
    tries = max(request.best_of or 1, request.n or 1)
    sampling = _sampling(request, served, tries)
    guide = read_guide(request)
    if guide is not None:
        check_guide(guide, served.hello)
    grammar = guide.grammar if guide is not None else None
    works = [
        Work([prompt], seeded(sampling, number), served.adapter, grammar)
        for prompt in prompts
        for number in range(tries)
    ]
    echoes: list[str | None] = [None] * len(prompts)
    if request.echo:
        echoes = [await _text(prompt, served, pool) for prompt in prompts]
    return CompletionPlan(request, served, works, tries, echoes, guide)


def _refuse_unsupported(request: CompletionRequest) -> None:
    if request.suffix is not None:
        raise unsupported_parameter("suffix", "This server does not fill in the middle.")
    if request.stream_options is not None and not request.stream:
        raise invalid_value("stream_options", "It is only allowed when 'stream' is true.")
    if request.best_of is not None:
        if request.best_of < (request.n or 1):
            raise invalid_value("best_of", "It must not be less than 'n'.")
        if request.stream and request.best_of > 1:
            raise invalid_value("best_of", "Its results cannot be streamed.")


def _sampling(request: CompletionRequest, served: Served, tries: int) -> Sampling:
    defaults, max_tokens = served.defaults.sampling, request.max_tokens
    if max_tokens is None and defaults.max_tokens is None:
        max_tokens = DEFAULT_MAX_TOKENS
    ranks = tries > (request.n or 1)
    sampling = plan_sampling(
        read_sampling(request),
        served.hello,
        defaults,
        max_tokens=max_tokens,
        logprobs=0 if ranks and request.logprobs is None else request.logprobs,
    )
    if request.echo and request.logprobs is not None:
        require(served.hello, Capability.PROMPT_LOGPROBS, "echo")
        sampling = msgspec.structs.replace(sampling, prompt_logprobs=request.logprobs)
    return sampling


def _prompts(request: CompletionRequest) -> list[PromptPart]:
    prompt = request.prompt
    if isinstance(prompt, str):
        return [_whole(prompt)]
    if isinstance(prompt[0], int):
        return [Tokens([token for token in prompt if isinstance(token, int)])]
    parts: list[PromptPart] = []
    for entry in prompt:
        if isinstance(entry, str):
            parts.append(_whole(entry))
        elif isinstance(entry, list):
            parts.append(Tokens(entry))
    return parts


def _whole(text: str) -> Text:
    return Text(text, control=True, joined=False, whole=True)


async def _text(prompt: PromptPart, served: Served, pool: EnginePool) -> str:
    """What echoing a prompt gives."""
    if isinstance(prompt, Text):
        return prompt.text
    connection = pool.pick(served.model.engine_model)
    reply = await connection.ask(lambda number: Detokenize(number, prompt.ids))
    if isinstance(reply, Failed):
        error = from_failure(reply)
        error.param = "prompt"
        raise error
    assert isinstance(reply, Detokenized)
    return reply.text
