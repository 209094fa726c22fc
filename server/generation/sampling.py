"""Sampling fields and output constraints of a request, as the engine takes them.

What the engine has said it cannot do is refused here, by the name of the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pydantic_core

from server.broken_rules import why_not_json
from server.errors import InvalidRequest, invalid_value, unsupported_parameter
from server.generation.defaults import SAMPLING_NEEDS
from server.generation.schema_limits import check_size, too_deep
from server.wire import SamplingFields
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
_SAMPLING_FIELDS = frozenset(SamplingFields.model_fields)
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


def plan_sampling(
    fields: SamplingFields,
    hello: Hello,
    defaults: Sampling,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    stop_words: tuple[str, ...] = (),
    keeps_special_tokens: bool = False,
) -> Sampling:
    """The request's fields over the model's defaults. Raises InvalidRequest."""
    base = msgspec.structs.replace(
        defaults,
        max_tokens=defaults.max_tokens if max_tokens is None else max_tokens,
        cap_to_context=max_tokens is None and defaults.cap_to_context,
        stop_words=list(stop_words),
        skip_special_tokens=defaults.skip_special_tokens and not keeps_special_tokens,
    )
    if fields.model_fields_set.isdisjoint(_SAMPLING_FIELDS) and logprobs is None:
        return base
    for name, capability in SAMPLING_NEEDS:
        if getattr(fields, name) is not None:
            require(hello, capability, name)
    if logprobs is not None:
        require(hello, Capability.LOGPROBS, "logprobs")
    given: dict[str, Any] = {
        name: value for name in _AS_GIVEN if (value := getattr(fields, name)) is not None
    }
    if fields.do_sample is not None:
        given |= _sampled(fields.do_sample, fields.temperature)
    if fields.top_p == 0:
        given["top_p"] = _LEAST_TOP_P
    if fields.top_k is not None:
        given["top_k"] = max(fields.top_k, 0)
    if fields.stop is not None:
        given["stop"] = [fields.stop] if isinstance(fields.stop, str) else fields.stop
    if fields.logit_bias:
        given["logit_bias"] = _bias(fields.logit_bias, hello.vocab_size)
    if fields.stop_token_ids is not None:
        given["stop_token_ids"] = _token_ids(fields.stop_token_ids, hello.vocab_size)
    if fields.skip_special_tokens is not None:
        given["skip_special_tokens"] = fields.skip_special_tokens and not keeps_special_tokens
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


def plan_guide(fields: SamplingFields, hello: Hello) -> Guide | None:
    """What `guided_*` or `structured_outputs` ask for. Raises InvalidRequest."""
    guides = [*_guided(fields), *_structured(fields)]
    if not guides:
        return None
    if len(guides) > 1:
        raise invalid_value(guides[1].param, f"It cannot be combined with '{guides[0].param}'.")
    check_size(guides[0].grammar, guides[0].param)
    check_guide(guides[0], hello)
    return guides[0]


def check_guide(guide: Guide, hello: Hello) -> None:
    """Raises InvalidRequest when the engine has no such grammars."""
    require(hello, _GRAMMAR_NEEDS[guide.grammar.kind], guide.param)


def require(hello: Hello, capability: Capability, param: str) -> None:
    """Raises InvalidRequest."""
    if capability not in hello.capabilities:
        engine = hello.engine.partition("/")[0]
        raise unsupported_parameter(param, f"The {engine} engine of this model cannot honour it.")


def _guided(fields: SamplingFields) -> list[Guide]:
    guides: list[Guide] = []
    if fields.guided_json is not None:
        guides.append(_schema(fields.guided_json, "guided_json"))
    if fields.guided_regex is not None:
        guides.append(Guide(Grammar(GrammarKind.REGEX, fields.guided_regex), "guided_regex"))
    if fields.guided_choice is not None:
        guides.append(_choice(fields.guided_choice, "guided_choice"))
    if fields.guided_grammar is not None:
        guides.append(Guide(Grammar(GrammarKind.EBNF, fields.guided_grammar), "guided_grammar"))
    return guides


def _structured(fields: SamplingFields) -> list[Guide]:
    wanted = fields.structured_outputs
    if wanted is None:
        return []
    place = "structured_outputs"
    guides: list[Guide] = []
    if wanted.json_ is not None:
        guides.append(_schema(wanted.json_, f"{place}.json"))
    if wanted.regex is not None:
        guides.append(Guide(Grammar(GrammarKind.REGEX, wanted.regex), f"{place}.regex"))
    if wanted.choice is not None:
        guides.append(_choice(wanted.choice, f"{place}.choice"))
    if wanted.grammar is not None:
        guides.append(Guide(Grammar(GrammarKind.EBNF, wanted.grammar), f"{place}.grammar"))
    if wanted.json_object:
        guides.append(Guide(Grammar(GrammarKind.JSON_OBJECT, ""), f"{place}.json_object"))
    if wanted.structural_tag is not None:
        _check_json(wanted.structural_tag, f"{place}.structural_tag")
        grammar = Grammar(GrammarKind.STRUCTURAL_TAG, wanted.structural_tag)
        guides.append(Guide(grammar, f"{place}.structural_tag"))
    if not guides:
        raise invalid_value(place, "It must name one constraint.")
    return guides


def _schema(schema: dict[str, object] | str, param: str) -> Guide:
    """Raises InvalidRequest."""
    try:
        source = schema if isinstance(schema, str) else msgspec.json.encode(schema).decode()
    except RecursionError as error:
        raise too_deep(param) from error
    if isinstance(schema, str):
        check_size(Grammar(GrammarKind.JSON_SCHEMA, source), param)
        _check_json(schema, param)
    return Guide(Grammar(GrammarKind.JSON_SCHEMA, source), param)


def _check_json(text: str, param: str) -> None:
    """An object in JSON, within the limits of a body. Raises InvalidRequest."""
    try:
        value = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        reason = why_not_json(str(error)) or str(error)
        raise invalid_value(param, f"Its text cannot be read as JSON: {reason}.") from None
    if not isinstance(value, dict):
        raise invalid_value(param, "Its text is not a JSON object.")


def _choice(choices: list[str], param: str) -> Guide:
    return Guide(Grammar(GrammarKind.CHOICE, msgspec.json.encode(choices).decode()), param)


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
