"""Describes `POST /v1/score/evaluation` for the API document; `ScoresEndpoint` answers it."""

from __future__ import annotations

from fastapi import APIRouter

from server.openapi import refusals
from server.scores.schemas import ScoreEvaluation, ScoreRequest

router = APIRouter(tags=["Scores"])


@router.post(
    "/v1/score/evaluation",
    response_model=ScoreEvaluation,
    responses=refusals(404, 429),
    summary="Score texts with a reward model",
)
async def create_score_evaluation(body: ScoreRequest) -> None:
    """One reward for each text, in their order."""
    raise NotImplementedError("requests to this path go through server.direct")
