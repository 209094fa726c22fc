"""The body of a legacy completion request and, for the API's documentation, of its answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.wire import Count, ResponseBody, SamplingFields, StreamOptions, UsageBody

MAX_PROMPTS = 2048
DEFAULT_MAX_TOKENS = 16

TokenPrompt = Annotated[list[Count], Field(min_length=1)]
Prompt = (
    str
    | TokenPrompt
    | Annotated[list[str], Field(min_length=1)]
    | Annotated[list[TokenPrompt], Field(min_length=1)]
)
"""The number of prompts is checked apart: in a union its error would hide behind those of types."""


class CompletionRequest(SamplingFields):
    model: str
    prompt: Prompt
    max_tokens: Count | None = None
    best_of: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    suffix: str | None = None
    stream: bool | None = None
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
