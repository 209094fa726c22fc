"""vLLM's `POST /v1/completions` with token ids in and out, and its dynamic-LoRA routes.

Read from vLLM 0.32: `return_token_ids` adds `token_ids` to each chunk's choice (the stop token
included), `return_tokens_as_token_ids` spells tokens in logprobs as `token_id:N`.
"""

from __future__ import annotations

import json
from typing import Any

from workers.contract.messages import FailureKind, FinishReason, Grammar, GrammarKind
from workers.engine.backend import Ended, Output, RefusedError, Score, Work

_SEED_RANGE = 2**63
_TOKEN_PREFIX = "token_id:"
_STRUCTURED = {
    GrammarKind.JSON_SCHEMA: "json",
    GrammarKind.REGEX: "regex",
    GrammarKind.EBNF: "grammar",
    GrammarKind.STRUCTURAL_TAG: "structural_tag",
}


def completion_body(work: Work, model: str, eos_ids: frozenset[int]) -> dict[str, Any]:
    """Raises RefusedError."""
    sampling = work.sampling
    # What a grammar has come to its end with is an end of sequence, whatever the request ignores.
    stop_ids = work.stop_ids if work.grammar is None else work.stop_ids | eos_ids
    body: dict[str, Any] = {
        "model": model,
        "prompt": work.prompt_ids,
        "stream": True,
        "add_special_tokens": False,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "skip_special_tokens": False,
        "max_tokens": work.max_tokens,
        "min_tokens": sampling.min_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "stop_token_ids": sorted(stop_ids),
        "ignore_eos": True,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed % _SEED_RANGE
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.logprobs is not None:
        body["logprobs"] = sampling.logprobs
    if work.grammar is not None:
        body["structured_outputs"] = _structured(work.grammar)
    return body


def _structured(grammar: Grammar) -> dict[str, Any]:
    if grammar.kind is GrammarKind.JSON_OBJECT:
        return {"json": {"type": "object"}}
    if grammar.kind is not GrammarKind.CHOICE:
        return {_STRUCTURED[grammar.kind]: grammar.source}
    try:
        choices = json.loads(grammar.source)
    except ValueError as error:
        raise _bad_choices() from error
    if not isinstance(choices, list) or not choices or not all(choices):
        raise _bad_choices()
    return {"choice": choices}


def _bad_choices() -> RefusedError:
    message = "The choices must be a list of strings that are not empty, with at least one member."
    return RefusedError(FailureKind.INVALID_GRAMMAR, message, "response_format")


def read_chunk(work: Work, chunk: dict[str, Any]) -> Output | None:
    """One server-sent record as our output; None where it brings nothing."""
    error = chunk_error(work, chunk)
    if error is not None:
        return Output(work.key, ended=error)
    choices = chunk.get("choices")
    if not choices:
        return None
    choice = choices[0]
    output = Output(work.key)
    token_ids: list[int] = choice.get("token_ids") or []
    finish, stop = choice.get("finish_reason"), choice.get("stop_reason")
    scores = _scores(choice, work)
    if finish is not None:
        output.ended = _ended(finish, stop)
        if isinstance(stop, int) and token_ids and token_ids[-1] == stop:
            token_ids = token_ids[:-1]
    output.token_ids = token_ids
    if scores is not None and token_ids:
        output.scores = scores[: len(token_ids)]
    return output if token_ids or output.ended is not None else None


def _ended(finish: str, stop: Any) -> Ended | RefusedError:
    if finish == "length":
        return Ended(FinishReason.LENGTH)
    if finish == "stop":
        return Ended(FinishReason.STOP, stop if isinstance(stop, int) else None)
    if finish == "abort":
        return Ended(FinishReason.ABORT)
    return RefusedError(FailureKind.INTERNAL, "The attached engine stopped this request.")


def _scores(choice: dict[str, Any], work: Work) -> list[Score] | None:
    logprobs, wanted = choice.get("logprobs"), work.sampling.logprobs
    if logprobs is None or wanted is None:
        return None
    own: list[float] = logprobs["token_logprobs"]
    tops: list[dict[str, float] | None] = logprobs["top_logprobs"]
    scores: list[Score] = []
    for index, logprob in enumerate(own):
        # The chosen token is among them, even when it is not among the most likely.
        listed = [(_token_id(name), value) for name, value in (tops[index] or {}).items()]
        ranked = sorted(listed, key=lambda entry: -entry[1])[:wanted]
        scores.append(Score(logprob, ranked))
    return scores


def _token_id(name: str) -> int:
    return int(name.removeprefix(_TOKEN_PREFIX))


def chunk_error(work: Work, chunk: dict[str, Any]) -> RefusedError | None:
    """vLLM answers 200 before it has looked at a grammar, and refuses in the stream."""
    if "error" not in chunk:
        return None
    code = chunk["error"].get("code")
    return refusal(code if isinstance(code, int) else 500, json.dumps(chunk).encode(), work)


def refusal(status: int, body: bytes, work: Work | None = None) -> RefusedError:
    """What the server refused, in our words."""
    message = _message(body)
    if status in (429, 503):
        return RefusedError(FailureKind.OVERLOADED, "The attached engine is overloaded.")
    if status in (400, 422):
        if work is not None and work.grammar is not None:
            return RefusedError(FailureKind.INVALID_GRAMMAR, message, "response_format")
        return RefusedError(FailureKind.INVALID_REQUEST, message)
    if status == 404:
        message = "The attached engine does not know the model."
        return RefusedError(FailureKind.ADAPTER_NOT_FOUND, message, "model")
    return RefusedError(FailureKind.INTERNAL, f"The attached engine answered with {status}.")


def _message(body: bytes) -> str:
    try:
        error = json.loads(body)
        error = error.get("error", error)
        return str(error.get("message") or "The attached engine refused the request.")
    except (ValueError, AttributeError):
        return "The attached engine refused the request."
