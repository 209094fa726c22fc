"""SGLang's chunks of one sequence as our outputs, in process and over HTTP alike.

A chunk is `{"output_ids": [...], "meta_info": {...}}`, as `/generate` sends it. Its ids and
log-probabilities are what is new if the server streams incrementally; else `Answer.increment` cuts
them out.
"""

from __future__ import annotations

import math
from typing import Any

from workers.contract.messages import FailureKind, FinishReason
from workers.engine.backend import Ended, Output, RefusedError, Score, Work

_LISTS = ("output_token_logprobs", "output_top_logprobs")


class Answer:
    """One sequence under way in the engine."""

    __slots__ = (
        "_prompt_scored",
        "cached_tokens",
        "engine_stops",
        "num_output",
        "stops_here",
        "work",
    )

    def __init__(self, work: Work, *, engine_stops: bool) -> None:
        self.work = work
        self.engine_stops = engine_stops
        """The engine ends the sequence at the request's stop ids; otherwise this has to."""
        self.num_output = 0
        self.cached_tokens = 0
        self.stops_here = False
        """The sequence has ended here while the engine goes on: it must be aborted there."""
        self._prompt_scored = False

    def increment(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """What is new in a chunk that holds all from the beginning."""
        meta, start = chunk["meta_info"], self.num_output
        cut = {name: meta[name][start:] for name in _LISTS if meta.get(name)}
        ids = chunk.get("output_ids", [])[start:]
        return {**chunk, "output_ids": ids, "meta_info": {**meta, **cut}}

    def read(self, chunk: dict[str, Any]) -> Output:
        work, meta = self.work, chunk["meta_info"]
        token_ids: list[int] = chunk.get("output_ids", [])
        self.cached_tokens = meta.get("cached_tokens", self.cached_tokens)
        output = Output(work.key)
        if work.sampling.prompt_logprobs is not None and not self._prompt_scored:
            self._prompt_scored = True
            output.prompt_scores = _prompt_scores(meta, work.sampling.prompt_logprobs)
        kept, output.ended = self._end(token_ids, meta)
        self.num_output += len(token_ids)
        if work.max_tokens and not isinstance(output.ended, RefusedError):
            output.token_ids = token_ids[:kept]
            if work.sampling.logprobs is not None and kept:
                output.scores = _scores(meta, work.sampling.logprobs)[:kept]
        return output

    def _end(
        self, token_ids: list[int], meta: dict[str, Any]
    ) -> tuple[int, Ended | RefusedError | None]:
        """How many of the tokens are output, and whether the sequence is over."""
        cached = self.cached_tokens
        if not self.engine_stops:
            for index, token_id in enumerate(token_ids):
                if token_id in self.work.stop_ids:
                    self.stops_here = True
                    return index, Ended(FinishReason.STOP, token_id, cached)
        finish = meta["finish_reason"]
        if finish is None:
            return len(token_ids), None
        if finish["type"] == "abort":
            return 0, _aborted(finish, cached)
        if finish["type"] == "length":
            return len(token_ids), Ended(FinishReason.LENGTH, None, cached)
        matched = finish.get("matched")
        if isinstance(matched, int) and token_ids and token_ids[-1] == matched:
            stop_id = matched if self.work.max_tokens else None
            return len(token_ids) - 1, Ended(FinishReason.STOP, stop_id, cached)
        return len(token_ids), Ended(FinishReason.STOP, None, cached)


def _scores(meta: dict[str, Any], num_top: int) -> list[Score]:
    own = meta["output_token_logprobs"]
    tops = meta.get("output_top_logprobs") or [None] * len(own)
    return [_score(entry, top, num_top) for entry, top in zip(own, tops, strict=True)]


def _prompt_scores(meta: dict[str, Any], num_top: int) -> list[Score]:
    own = meta["input_token_logprobs"]
    tops = meta.get("input_top_logprobs") or [None] * len(own)
    scores = [_score(entry, top, num_top) for entry, top in zip(own, tops, strict=True)]
    return [Score(math.nan, []), *scores[1:]]


def _score(entry: Any, top: Any, num_top: int) -> Score:
    value = math.nan if entry[0] is None else entry[0]
    return Score(value, [(other[1], other[0]) for other in (top or [])[:num_top]])


def _aborted(finish: dict[str, Any], cached: int) -> Ended | RefusedError:
    status = finish.get("status_code")
    if status is None:
        return Ended(FinishReason.ABORT, None, cached)
    kind = {400: FailureKind.INVALID_REQUEST, 503: FailureKind.OVERLOADED}.get(int(status))
    if kind is None:
        return RefusedError(FailureKind.INTERNAL, "The engine could not go on with this request.")
    return RefusedError(kind, str(finish.get("message")))
