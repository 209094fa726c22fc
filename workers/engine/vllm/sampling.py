"""Our sampling parameters as vLLM's."""

# vLLM is installed in its own environment, not in the one that type-checks.
# pyright: reportMissingImports=false, reportUnknownParameterType=false

from __future__ import annotations

import json
from typing import Any

from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

from workers.contract.parts import Grammar, GrammarKind
from workers.engine.backend import Work
from workers.engine.grammars import invalid

_SEED_RANGE = 2**63


def sampling_params(work: Work, eos_ids: frozenset[int]) -> SamplingParams:
    """Raises RefusedError."""
    sampling = work.sampling
    # What a grammar has come to its end with is an end of sequence, whatever the request ignores.
    stop_ids = work.stop_ids if work.grammar is None else work.stop_ids | eos_ids
    return SamplingParams(
        # A prompt that is only scored still takes one step, whose token is dropped.
        max_tokens=max(1, work.max_tokens),
        min_tokens=sampling.min_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        # vLLM takes -1 for "no seed"; any integer of ours is one.
        seed=None if sampling.seed is None else sampling.seed % _SEED_RANGE,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        repetition_penalty=sampling.repetition_penalty,
        logit_bias=dict(sampling.logit_bias) or None,
        stop_token_ids=sorted(stop_ids),
        # The end-of-sequence ids are among `stop_ids` unless the request ignores them.
        ignore_eos=True,
        logprobs=sampling.logprobs,
        prompt_logprobs=sampling.prompt_logprobs,
        structured_outputs=None if work.grammar is None else _structured(work.grammar),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
    )


def _structured(simple: Grammar) -> StructuredOutputsParams:
    match simple.kind:
        case GrammarKind.REGEX:
            return StructuredOutputsParams(regex=simple.source)
        case GrammarKind.STRUCTURAL_TAG:
            return StructuredOutputsParams(structural_tag=simple.source)
        case _:
            return StructuredOutputsParams(grammar=simple.source)


def check_schema(grammar: Grammar) -> None:
    """As vLLM does it for a plain schema: what xgrammar would ignore is refused. Raises
    RefusedError."""
    if grammar.kind is not GrammarKind.JSON_SCHEMA:
        return
    try:
        schema: Any = json.loads(grammar.source)
    except (ValueError, RecursionError):
        return  # refused where it is read
    if isinstance(schema, dict) and has_xgrammar_unsupported_json_features(schema):
        raise invalid("The JSON schema holds keywords that cannot be enforced together or at all.")
