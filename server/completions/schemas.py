"""The body of a legacy completion request and, for the API's documentation, of its answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.body_size import MAX_VALUES
from server.wire import (
    Count,
    ModelName,
    ResponseBody,
    SamplingFields,
    StreamOptions,
    UsageBody,
    several,
)

MAX_PROMPTS = 2048
DEFAULT_MAX_TOKENS = 16

TokenPrompt = Annotated[list[Count], several(MAX_VALUES, 1)]
Prompt = (
    str
    | TokenPrompt
    | Annotated[list[str], several(MAX_PROMPTS, 1)]
    | Annotated[list[TokenPrompt], several(MAX_PROMPTS, 1)]
)


class CompletionRequest(SamplingFields):
    model: ModelName
    prompt: Prompt
    max_tokens: Count | None = None
    best_of: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    suffix: str | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None


class CompletionLogprobs(ResponseBody):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(ResponseBody):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"]


class Completion(ResponseBody):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageBody
    system_fingerprint: str
