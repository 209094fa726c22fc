"""What is refused before an engine sees it, with OpenAI's wording where there is one."""

from __future__ import annotations

from collections.abc import Iterable

from workers.contract.hello import Capability
from workers.contract.messages import FailureKind, Generate
from workers.contract.parts import GrammarKind, Sampling, Tokens
from workers.engine.backend import Description, RefusedError
from workers.engine.text.vocabulary import Vocabulary

_GRAMMAR_NEEDS = {
    GrammarKind.JSON_OBJECT: Capability.JSON_SCHEMA,
    GrammarKind.JSON_SCHEMA: Capability.JSON_SCHEMA,
    GrammarKind.REGEX: Capability.REGEX,
    GrammarKind.CHOICE: Capability.CHOICE,
    GrammarKind.EBNF: Capability.EBNF,
    GrammarKind.STRUCTURAL_TAG: Capability.STRUCTURAL_TAG,
}


class RequestChecks:
    def __init__(self, description: Description, vocabulary: Vocabulary) -> None:
        self._can = description.capabilities
        self._engine = description.engine
        self._max_model_len = description.max_model_len
        self._max_logprobs = description.max_logprobs
        self._vocabulary = vocabulary

    def request(self, request: Generate) -> None:
        """All but the prompt's length. Raises RefusedError."""
        sampling = request.sampling
        self._capabilities(request)
        _ranges(sampling)
        for param, count in (
            ("logprobs", sampling.logprobs),
            ("prompt_logprobs", sampling.prompt_logprobs),
        ):
            if count is not None and not 0 <= count <= self._max_logprobs:
                raise _invalid(f"{param} must be between 0 and {self._max_logprobs}.", param)
        self.token_ids(sampling.logit_bias, "logit_bias")
        self.token_ids(sampling.stop_token_ids, "stop_token_ids")
        for part in request.prompt:
            if isinstance(part, Tokens):
                self.token_ids(part.ids, "prompt")

    def token_ids(self, ids: Iterable[int], param: str) -> None:
        size = self._vocabulary.size
        for token_id in ids:
            if not 0 <= token_id < size:
                raise _invalid(
                    f"Token id {token_id} is out of the vocabulary (0 to {size - 1}).", param
                )

    def prompt(self, prompt_ids: list[int], sampling: Sampling) -> int:
        """The number of tokens that may be generated. Raises RefusedError."""
        limit, used, asked = self._max_model_len, len(prompt_ids), sampling.max_tokens
        if not used:
            raise _invalid("The prompt is empty.", "prompt")
        if asked is not None and sampling.cap_to_context:
            asked = max(1, min(asked, limit - used))
        needed = 1 if asked is None else asked
        if used + needed > limit:
            detail = (
                f"your messages resulted in {used} tokens. Please reduce the length of the messages"
                if asked is None
                else f"you requested {used + asked} tokens ({used} in the messages, {asked} in "
                "the completion). Please reduce the length of the messages or completion"
            )
            raise RefusedError(
                FailureKind.CONTEXT_LENGTH_EXCEEDED,
                f"This model's maximum context length is {limit} tokens. However, {detail}.",
                "messages",
            )
        allowed = limit - used if asked is None else asked
        if sampling.min_tokens > allowed:
            raise _invalid("min_tokens must not be more than max_tokens.", "min_tokens")
        return allowed

    def _capabilities(self, request: Generate) -> None:
        sampling = request.sampling
        needs = [
            (sampling.seed is not None, Capability.SEED, "seed"),
            (sampling.logprobs is not None, Capability.LOGPROBS, "logprobs"),
            (sampling.prompt_logprobs is not None, Capability.PROMPT_LOGPROBS, "prompt_logprobs"),
            (bool(sampling.logit_bias), Capability.LOGIT_BIAS, "logit_bias"),
            (sampling.min_p != 0, Capability.MIN_P, "min_p"),
            (
                sampling.repetition_penalty != 1,
                Capability.REPETITION_PENALTY,
                "repetition_penalty",
            ),
            (sampling.min_tokens > 0, Capability.MIN_TOKENS, "min_tokens"),
            (request.adapter is not None, Capability.LORA, "model"),
        ]
        if request.grammar is not None:
            needs.append((True, _GRAMMAR_NEEDS[request.grammar.kind], "response_format"))
        for used, capability, param in needs:
            if used and capability not in self._can:
                raise RefusedError(
                    FailureKind.UNSUPPORTED,
                    f"The engine of this model ({self._engine}) does not support {param}.",
                    param,
                )


def _ranges(sampling: Sampling) -> None:
    """Ranges are OpenAI's where it has the parameter, else those under which sampling is defined.
    NaN fails every one of them."""
    rules = [
        (sampling.max_tokens is None or sampling.max_tokens >= 0, "max_tokens", "at least 0"),
        (sampling.min_tokens >= 0, "min_tokens", "at least 0"),
        (0 <= sampling.temperature <= 100, "temperature", "between 0 and 100"),
        (0 < sampling.top_p <= 1, "top_p", "more than 0 and at most 1"),
        (sampling.top_k >= 0, "top_k", "at least 0"),
        (0 <= sampling.min_p <= 1, "min_p", "between 0 and 1"),
        (-2 <= sampling.frequency_penalty <= 2, "frequency_penalty", "between -2 and 2"),
        (-2 <= sampling.presence_penalty <= 2, "presence_penalty", "between -2 and 2"),
        (
            0 < sampling.repetition_penalty < float("inf"),
            "repetition_penalty",
            "more than 0",
        ),
        (all(abs(b) <= 1e4 for b in sampling.logit_bias.values()), "logit_bias", "finite"),
    ]
    for holds, param, rule in rules:
        if not holds:
            raise _invalid(f"{param} must be {rule}.", param)


def stop_conditions(
    sampling: Sampling, vocabulary: Vocabulary
) -> tuple[frozenset[int], tuple[str, ...]]:
    """The token ids and the strings that end an output."""
    ids = set(sampling.stop_token_ids)
    texts = list(sampling.stop)
    if not sampling.ignore_eos:
        ids |= vocabulary.eos_ids
        for word in sampling.stop_words:
            token_id = vocabulary.token_id(word)
            if token_id is None:
                texts.append(word)
            else:
                ids.add(token_id)
    return frozenset(ids), tuple(texts)


def _invalid(message: str, param: str) -> RefusedError:
    return RefusedError(FailureKind.INVALID_REQUEST, message, param)
