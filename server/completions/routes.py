"""Describes `POST /v1/completions` for the API document; `CompletionsEndpoint` answers it."""

from __future__ import annotations

from fastapi import APIRouter

from server.completions.schemas import Completion, CompletionRequest
from server.openapi import refusals

router = APIRouter(tags=["Completions"])


@router.post(
    "/v1/completions",
    response_model=Completion,
    responses={
        200: {
            "description": "The answer; with `stream`, its chunks as server-sent events.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **refusals(404, 429),
    },
    summary="Create a completion",
)
async def create_completion(body: CompletionRequest) -> None:
    """Continues text or tokens as they are, without a chat format."""
    raise NotImplementedError("requests to this path go through server.direct")
