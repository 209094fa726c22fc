"""Our sampling parameters as SGLang's, and what it cannot honour."""

from __future__ import annotations

from typing import Any

from workers.contract.messages import FailureKind
from workers.contract.parts import Grammar, GrammarKind
from workers.engine.backend import RefusedError, Work

_SEED_RANGE = 2**31


def check_served(work: Work) -> None:
    """Raises RefusedError for combinations that the engine would answer otherwise than asked."""
    sampling = work.sampling
    changes = {
        "frequency_penalty": sampling.frequency_penalty != 0,
        "presence_penalty": sampling.presence_penalty != 0,
        "logit_bias": bool(sampling.logit_bias),
        "min_tokens": sampling.min_tokens > 0,
        "response_format": work.grammar is not None,
    }
    if sampling.logprobs is None:
        return
    for param, used in changes.items():
        if used:
            raise RefusedError(
                FailureKind.UNSUPPORTED,
                f"The engine of this model (sglang) reports log-probabilities after {param} has "
                f"changed them; logprobs and {param} cannot be combined.",
                "logprobs",
            )


def sampling_params(work: Work, *, engine_stops: bool) -> dict[str, Any]:
    """`engine_stops`: the engine itself ends the sequence at the stop ids and at its own
    end-of-sequence ids; otherwise it ends at neither."""
    sampling = work.sampling
    params: dict[str, Any] = {
        # A prompt that is only scored still takes one step, whose token is dropped.
        "max_new_tokens": max(1, work.max_tokens),
        "min_new_tokens": sampling.min_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "stop_token_ids": sorted(work.stop_ids),
        "ignore_eos": not engine_stops,
        "skip_special_tokens": False,
        "no_stop_trim": True,
    }
    if sampling.logit_bias:
        params["logit_bias"] = {str(k): v for k, v in sampling.logit_bias.items()}
    if sampling.seed is not None:
        params["sampling_seed"] = sampling.seed % _SEED_RANGE
    if work.grammar is not None:
        params |= _constraint(work.grammar)
    return params


def _constraint(simple: Grammar) -> dict[str, str]:
    match simple.kind:
        case GrammarKind.REGEX:
            return {"regex": simple.source}
        case GrammarKind.STRUCTURAL_TAG:
            return {"structural_tag": simple.source}
        case _:
            return {"ebnf": simple.source}
