"""Describes `POST /v1/chat/completions` for the API document; `ChatEndpoint` answers it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from server.chat.schemas import ChatCompletion, ChatCompletionRequest
from server.wire import ErrorBody

router = APIRouter(tags=["Chat"])

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in (
        (400, "The request is wrong; `param` names the field."),
        (401, "No API key, or a wrong one."),
        (404, "There is no such model."),
        (413, "The body is too large."),
        (429, "Too many requests are under way; see `Retry-After`."),
        (503, "No engine can take the request now; see `Retry-After`."),
    )
}


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={
        200: {
            "description": "The answer; with `stream`, its chunks as server-sent events.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **ERRORS,
    },
    summary="Create a chat completion",
)
async def create_chat_completion(body: ChatCompletionRequest) -> None:
    """Answers a conversation. Fields that the model's engine cannot honour are refused by name."""
    raise NotImplementedError("requests to this path go through server.direct")
