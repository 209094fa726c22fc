"""Running a grader on one answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import assert_never

from server.errors import RateLimited, Unavailable
from server.graders.formula import Formula, FormulaValueError
from server.graders.schemas import (
    GraderErrors,
    GraderMetadata,
    GraderRun,
    Multi,
    RunGrader,
    StringCheck,
    TextSimilarity,
    Unserved,
)
from server.graders.similarity import similarity
from server.graders.template import (
    MissingVariableError,
    Sample,
    SampleNotJsonError,
    TextTooLongError,
    fill,
)

MAX_INSIDE = 64
"""Graders that are run or wait on one gateway; one more is a 503."""
MAX_OF_PROJECT = 8
"""Of these, one project's; one more is a 429."""
_RETRY_AFTER_S = 1.0


class GraderRunner:
    """Runs graders one after another, in a thread of its own: some take a tenth of a second."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "graders")
        self._inside: Counter[str] = Counter()

    async def run(self, project_id: str, request: RunGrader) -> GraderRun:
        """Raises RateLimited, Unavailable."""
        if self._inside[project_id] >= MAX_OF_PROJECT:
            message = f"A project has {MAX_OF_PROJECT} graders run at once. Please retry."
            raise RateLimited(message, retry_after_s=_RETRY_AFTER_S)
        if self._inside.total() >= MAX_INSIDE:
            raise Unavailable("Too many graders are being run. Please retry.")
        self._inside[project_id] += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, run_grader, request)
        finally:
            self._inside[project_id] -= 1
            if not self._inside[project_id]:
                del self._inside[project_id]

    def close(self) -> None:
        """Those that wait are not run any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class _Run:
    """What has come of a grader so far."""

    sample: Sample
    errors: GraderErrors = field(default_factory=GraderErrors)
    sub_rewards: dict[str, float] = field(default_factory=dict[str, float])


def run_grader(request: RunGrader) -> GraderRun:
    """A grader that has no reward for the answer gives 0 and says why in `errors`. Blocking."""
    began = time.perf_counter()
    run = _Run(Sample(request.model_sample, request.item or {}))
    grader = request.grader
    reward = _multi(grader, run) if isinstance(grader, Multi) else _single(grader, run)
    return GraderRun(
        reward=reward,
        metadata=GraderMetadata(
            name="" if isinstance(grader, Unserved) else grader.name,
            type=grader.type,
            errors=run.errors,
            execution_time=time.perf_counter() - began,
            scores={},
        ),
        sub_rewards=run.sub_rewards,
        model_grader_token_usage_per_model={},
    )


def _multi(grader: Multi, run: _Run) -> float:
    for name, part in grader.graders.items():
        run.sub_rewards[name] = _single(part, run)
    try:
        formula = Formula(grader.calculate_output, grader.graders)
        return formula.value(run.sub_rewards)
    except FormulaValueError:
        run.errors.other_error = True
        return 0.0


def _single(grader: StringCheck | TextSimilarity | Unserved, run: _Run) -> float:
    try:
        match grader:
            case StringCheck():
                text, reference = fill(grader.input, run.sample), fill(grader.reference, run.sample)
                return float(_holds(grader.operation, text, reference))
            case TextSimilarity():
                text, reference = fill(grader.input, run.sample), fill(grader.reference, run.sample)
                return similarity(grader.evaluation_metric, text, reference)
            case Unserved():
                raise AssertionError("the request has been refused")
            case _:
                assert_never(grader)
    except MissingVariableError:
        run.errors.invalid_variable_error = True
    except SampleNotJsonError:
        run.errors.sample_parse_error = True
    except TextTooLongError:
        run.errors.other_error = True
    return 0.0


def _holds(operation: str, text: str, reference: str) -> bool:
    match operation:
        case "eq":
            return text == reference
        case "ne":
            return text != reference
        case "like":
            return reference in text
        case _:
            return reference.casefold() in text.casefold()
