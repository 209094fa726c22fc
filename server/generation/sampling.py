"""What a request asks of sampling, over the model's defaults, as the engine takes it.

What the engine has said it cannot do is refused here, by the name of the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from server.errors import InvalidRequest, invalid_value, unsupported_parameter
from server.generation.defaults import SAMPLING_NEEDS
from workers.contract.hello import Capability, Hello
from workers.contract.parts import Grammar, GrammarKind, Sampling

_AS_GIVEN = (
    "min_tokens",
    "temperature",
    "top_p",
    "min_p",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "ignore_eos",
)
_LEAST_TOP_P = 1e-9
"""For 0, which OpenAI allows and engines do not: as little keeps the most likely token alone."""
_MAX_ID_DIGITS = 10
_GRAMMAR_NEEDS = {
    GrammarKind.JSON_OBJECT: Capability.JSON_SCHEMA,
    GrammarKind.JSON_SCHEMA: Capability.JSON_SCHEMA,
    GrammarKind.REGEX: Capability.REGEX,
    GrammarKind.CHOICE: Capability.CHOICE,
    GrammarKind.EBNF: Capability.EBNF,
    GrammarKind.STRUCTURAL_TAG: Capability.STRUCTURAL_TAG,
}


@dataclass(frozen=True, slots=True)
class Guide:
    """A grammar and the request field that asked for it."""

    grammar: Grammar
    param: str


class AskedSampling(msgspec.Struct, frozen=True, kw_only=True):
    """None where the request does not say. The names are those of errors, too."""

    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    do_sample: bool | None = None
    skip_special_tokens: bool | None = None
    stop_token_ids: list[int] | None = None


NOTHING_ASKED = AskedSampling()


def plan_sampling(
    asked: AskedSampling,
    hello: Hello,
    defaults: Sampling,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    stop_words: tuple[str, ...] = (),
    keeps_special_tokens: bool = False,
) -> Sampling:
    """What is asked over the model's defaults. Raises InvalidRequest."""
    base = msgspec.structs.replace(
        defaults,
        max_tokens=defaults.max_tokens if max_tokens is None else max_tokens,
        cap_to_context=max_tokens is None and defaults.cap_to_context,
        stop_words=list(stop_words),
        skip_special_tokens=defaults.skip_special_tokens and not keeps_special_tokens,
    )
    if logprobs is None and asked == NOTHING_ASKED:
        return base
    for name, capability in SAMPLING_NEEDS:
        if getattr(asked, name) is not None:
            require(hello, capability, name)
    if logprobs is not None:
        require(hello, Capability.LOGPROBS, "logprobs")
    given: dict[str, Any] = {
        name: value for name in _AS_GIVEN if (value := getattr(asked, name)) is not None
    }
    if asked.do_sample is not None:
        given |= _sampled(asked.do_sample, asked.temperature)
    if asked.top_p == 0:
        given["top_p"] = _LEAST_TOP_P
    if asked.top_k is not None:
        given["top_k"] = max(asked.top_k, 0)
    if asked.stop is not None:
        given["stop"] = [asked.stop] if isinstance(asked.stop, str) else asked.stop
    if asked.logit_bias:
        given["logit_bias"] = _bias(asked.logit_bias, hello.vocab_size)
    if asked.stop_token_ids is not None:
        given["stop_token_ids"] = _token_ids(asked.stop_token_ids, hello.vocab_size)
    if asked.skip_special_tokens is not None:
        given["skip_special_tokens"] = asked.skip_special_tokens and not keeps_special_tokens
    return msgspec.structs.replace(base, logprobs=logprobs, **given)


def _sampled(do_sample: bool, temperature: float | None) -> dict[str, float]:
    """What `do_sample` makes of the temperature. Raises InvalidRequest."""
    if do_sample:
        if temperature == 0:
            raise invalid_value("do_sample", "A temperature of 0 does not sample.")
        return {}
    if temperature:
        raise invalid_value("do_sample", "Without sampling there is no temperature.")
    return {"temperature": 0.0}


def seeded(sampling: Sampling, offset: int) -> Sampling:
    """For the answer number `offset` to one prompt: the same request, another draw."""
    if sampling.seed is None or offset == 0:
        return sampling
    return msgspec.structs.replace(sampling, seed=_wrap(sampling.seed + offset))


def check_guide(guide: Guide, hello: Hello) -> None:
    """Raises InvalidRequest when the engine has no such grammars."""
    require(hello, _GRAMMAR_NEEDS[guide.grammar.kind], guide.param)


def require(hello: Hello, capability: Capability, param: str) -> None:
    """Raises InvalidRequest."""
    if capability not in hello.capabilities:
        engine = hello.engine.partition("/")[0]
        raise unsupported_parameter(param, f"The {engine} engine of this model cannot honour it.")


def _bias(bias: dict[str, float], vocab_size: int) -> dict[int, float]:
    """Keys are token ids written as decimal text. Raises InvalidRequest."""
    biases: dict[int, float] = {}
    for key, value in bias.items():
        is_id = key.isascii() and key.isdigit() and len(key) <= _MAX_ID_DIGITS
        if not (is_id and int(key) < vocab_size):
            raise InvalidRequest(
                f"Invalid key in 'logit_bias': '{key[:40]}'. Expected token ids of this model, "
                f"written as integers from 0 to {vocab_size - 1}.",
                param="logit_bias",
                code="invalid_value",
            )
        biases[int(key)] = value
    return biases


def _token_ids(ids: list[int], vocab_size: int) -> list[int]:
    for token_id in ids:
        if not 0 <= token_id < vocab_size:
            raise invalid_value(
                "stop_token_ids",
                f"{token_id} is not a token id of this model (0 to {vocab_size - 1}).",
            )
    return ids


def _wrap(seed: int) -> int:
    """Back into 64 bits with sign."""
    return (seed + 2**63) % 2**64 - 2**63
