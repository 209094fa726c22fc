"""The body of a score evaluation and, for the API's documentation, of its answer. The shape is
LLaMA-Factory's (`llamafactory.api.protocol`, `ScoreEvaluationRequest`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.wire import Count, ModelName, RequestBody, ResponseBody, several

MAX_TEXTS = 2048

ScoredText = Annotated[str, Field(min_length=1)]


class ScoreRequest(RequestBody):
    model: ModelName
    messages: Annotated[list[ScoredText], several(MAX_TEXTS, 1)]
    """Whole conversations, already in the model's chat format."""
    max_length: Annotated[Count, Field(ge=1)] | None = None
    """Longer texts are cut to this many tokens; without it, one over the context is refused."""


class ScoreEvaluation(ResponseBody):
    id: str
    object: Literal["score.evaluation"]
    model: str
    scores: list[float]
