"""What vLLM's engine says of a sequence, in our words."""

# vLLM is installed in its own environment, not in the one that type-checks.
# pyright: reportMissingImports=false

from __future__ import annotations

import math
from typing import Any

from workers.contract.messages import FailureKind, FinishReason
from workers.engine.backend import Ended, Output, RefusedError, Score, Work


class Job:
    """A sequence in the engine."""

    __slots__ = ("adapter", "cached_tokens", "held", "prompt_scores", "request_id", "work")

    def __init__(self, work: Work, request_id: str) -> None:
        self.work = work
        self.request_id = request_id
        self.cached_tokens = 0
        self.prompt_scores: list[Score] | None = None
        if work.sampling.prompt_logprobs is not None:
            self.prompt_scores = [Score(math.nan, [])]
        self.held: list[Output] | None = []
        """Outputs that came before `submit` returned; None once they may be delivered."""

    def read(self, result: Any) -> Output:
        """What one engine step gave this sequence."""
        work, token_ids = self.work, result.new_token_ids
        if result.prefill_stats is not None:
            self.cached_tokens = result.prefill_stats.num_cached_tokens
        output = Output(work.key)
        if self.prompt_scores is not None:
            self._add_prompt_scores(result, output)
        if result.finish_reason is not None:
            output.ended = _ended(self, result)
        if not work.max_tokens:
            return output
        if isinstance(output.ended, Ended) and output.ended.stop_id is not None:
            token_ids = token_ids[:-1]
        output.token_ids = token_ids
        if work.sampling.logprobs is not None and token_ids:
            output.scores = _scores(result.new_logprobs, len(token_ids))
        return output

    def _add_prompt_scores(self, result: Any, output: Output) -> None:
        """vLLM may score a long prompt over several steps."""
        scores = self.prompt_scores
        assert scores is not None, "only called while scores are collected"
        if result.new_prompt_logprobs_tensors is not None:
            scores += _scores(result.new_prompt_logprobs_tensors)
        if len(scores) >= len(self.work.prompt_ids):
            output.prompt_scores, self.prompt_scores = scores, None


def _scores(logprobs: Any, count: int | None = None) -> list[Score]:
    """The first column is the token itself, the others are the most likely ones."""
    ids, values = logprobs[0][:count].tolist(), logprobs[1][:count].tolist()
    return [
        Score(row_values[0], list(zip(row_ids[1:], row_values[1:], strict=True)))
        for row_ids, row_values in zip(ids, values, strict=True)
    ]


def _ended(job: Job, result: Any) -> Ended | RefusedError:
    from vllm.v1.engine import FinishReason as VllmFinish

    reason = result.finish_reason
    if reason is VllmFinish.ERROR:
        return RefusedError(FailureKind.INTERNAL, "The engine could not go on with this request.")
    if reason is VllmFinish.ABORT:
        return Ended(FinishReason.ABORT, None, job.cached_tokens)
    if reason is VllmFinish.STOP and isinstance(result.stop_reason, int) and job.work.max_tokens:
        return Ended(FinishReason.STOP, result.stop_reason, job.cached_tokens)
    ended = FinishReason.STOP if reason is VllmFinish.STOP else FinishReason.LENGTH
    return Ended(ended, None, job.cached_tokens)


def refusal(work: Work, error: BaseException) -> BaseException:
    """What vLLM refused, in our words; anything else as it is."""
    from vllm.exceptions import VLLMClientError
    from vllm.v1.engine.exceptions import EngineDeadError

    if isinstance(error, EngineDeadError):
        return RefusedError(FailureKind.ENGINE_DEAD, "The engine stopped unexpectedly.")
    if not isinstance(error, VLLMClientError | ValueError):
        return error
    param = getattr(error, "parameter", None)
    if work.grammar is not None and param is None:
        return RefusedError(FailureKind.INVALID_GRAMMAR, str(error), "response_format")
    return RefusedError(FailureKind.INVALID_REQUEST, str(error), param)
