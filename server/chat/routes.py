"""Describes `POST /v1/chat/completions` for the API document; `ChatEndpoint` answers it."""

from __future__ import annotations

from fastapi import APIRouter

from server.chat.schemas import ChatCompletion, ChatCompletionRequest
from server.openapi import refusals

router = APIRouter(tags=["Chat"])


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={
        200: {
            "description": "The answer; with `stream`, its chunks as server-sent events.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **refusals(404, 429),
    },
    summary="Create a chat completion",
)
async def create_chat_completion(body: ChatCompletionRequest) -> None:
    """Answers a conversation. Fields that the model's engine cannot honour are refused by name."""
    raise NotImplementedError("requests to this path go through server.direct")
