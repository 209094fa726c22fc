"""Shapes that several endpoints' requests and responses share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


def several(most: int, least: int = 0) -> Any:
    """A field for a list of `least` to `most` items, of which the first wrong one is told."""
    return Field(min_length=least or None, max_length=most, fail_fast=True)


class RequestBody(BaseModel):
    """JSON types are taken literally, and a field we do not know is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


class ResponseBody(BaseModel):
    """Documents a response; handlers on the fast path write the same shape themselves."""

    model_config = ConfigDict(extra="allow")


MAX_COUNT = 2**31 - 1
"""More than anything can be; every process and engine has room for it."""
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Probability = Annotated[float, Field(ge=0, le=1)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
MAX_MEMBERS = 4096
"""Of an object whose members all have values of one kind."""
MAX_CHOICES = 4096
MAX_STOP_TOKENS = 256
ModelName = Annotated[str, Field(max_length=512)]
StopText = Annotated[str, Field(min_length=1, max_length=1024)]
Stop = StopText | Annotated[list[StopText], several(4)]
Biases = Annotated[dict[str, Bias], Field(max_length=MAX_MEMBERS)]
Choices = Annotated[list[str], several(MAX_CHOICES, 1)]
NumAnswers = Annotated[int, Field(ge=1, le=128)]


class StreamOptions(RequestBody):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class StructuredOutputs(RequestBody):
    """What the output must match; exactly one of them."""

    json_: dict[str, object] | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | None = None


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class StreamableBody(RequestBody):
    """Of an answer that is sent whole, or as it comes."""

    stream: bool | None = None


class SamplingFields(StreamableBody):
    """OpenAI's, then those that OpenAI does not have, by the names of vLLM and SGLang."""

    temperature: Temperature | None = None
    top_p: Probability | None = None
    n: NumAnswers | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Biases | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_COUNT)] | None = None
    min_p: Probability | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    min_tokens: Count | None = None
    ignore_eos: bool | None = None
    do_sample: bool | None = None
    skip_special_tokens: bool | None = None
    stop_token_ids: Annotated[list[int], several(MAX_STOP_TOKENS)] | None = None
    guided_json: dict[str, object] | str | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None


class PromptTokensDetails(ResponseBody):
    cached_tokens: int
    audio_tokens: int


class CompletionTokensDetails(ResponseBody):
    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class UsageBody(ResponseBody):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None


class ErrorDetail(ResponseBody):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(ResponseBody):
    error: ErrorDetail


class MessageErrorDetail(ResponseBody):
    type: str
    message: str


class MessageErrorBody(ResponseBody):
    """Anthropic's envelope."""

    type: Literal["error"]
    error: MessageErrorDetail
    request_id: str
