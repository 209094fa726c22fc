"""The body of a chat completion request and, for the API's documentation, of its answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.answering.tool_plan import MAX_TOOLS
from server.chat.messages import MAX_PARTS, MessageBody
from server.chat.tools import (
    FunctionBody,
    FunctionCallChoice,
    ToolBody,
    ToolChoiceBody,
)
from server.wire import (
    Count,
    Metadata,
    ModelName,
    RequestBody,
    ResponseBody,
    SamplingFields,
    StreamOptions,
    UsageBody,
    several,
)

MAX_MESSAGES = 4096
MAX_DOCUMENTS = 1024


class TextFormat(RequestBody):
    type: Literal["text"]


class JsonObjectFormat(RequestBody):
    type: Literal["json_object"]


class JsonSchema(RequestBody):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(RequestBody):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


class Prediction(RequestBody):
    """A hint about the likely answer; it changes nothing, and no tokens of it are counted."""

    type: Literal["content"]
    content: str | Annotated[list[dict[str, Any]], several(MAX_PARTS)]


class ChatCompletionRequest(SamplingFields):
    model: ModelName
    messages: Annotated[list[MessageBody], several(MAX_MESSAGES, 1)]
    max_completion_tokens: Annotated[Count, Field(ge=1)] | None = None
    max_tokens: Annotated[Count, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[ToolBody], several(MAX_TOOLS)] | None = None
    tool_format: str | None = None
    """The tool-call dialect, where it is not the model's own."""
    tool_choice: ToolChoiceBody | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[FunctionBody], several(MAX_TOOLS, 1)] | None = None
    function_call: FunctionCallChoice | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    enable_thinking: bool | None = None
    stop_in_reasoning: bool | None = None
    """Whether `stop` ends the answer inside its thinking too; without it the content alone."""
    thinking_budget: Annotated[Count, Field(ge=1)] | None = None
    """Most tokens of thinking; the answer begins where they are spent."""
    verbosity: Literal["low", "medium", "high"] | None = None
    modalities: Annotated[list[Literal["text", "audio"]], several(2)] | None = None
    audio: Any = None
    web_search_options: Any = None
    moderation: Any = None
    prediction: Prediction | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    user: str | None = None
    safety_identifier: Annotated[str, Field(max_length=64)] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    prompt_cache_options: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Annotated[list[dict[str, Any]], several(MAX_DOCUMENTS)] | None = None
    include_reasoning: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class CalledFunction(ResponseBody):
    name: str
    arguments: str


class CalledTool(ResponseBody):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(ResponseBody):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[CalledTool] | None = None
    function_call: CalledFunction | None = None


class LogprobAlternative(ResponseBody):
    token: str
    logprob: float
    bytes: list[int] | None


class LogprobEntry(LogprobAlternative):
    top_logprobs: list[LogprobAlternative]


class ChoiceLogprobs(ResponseBody):
    """`content` and `reasoning` hold the tokens of what the message shows under these names; tokens
    of marks and of tool calls are in neither."""

    content: list[LogprobEntry] | None
    refusal: list[LogprobEntry] | None
    reasoning: list[LogprobEntry] | None = None


class ChatChoice(ResponseBody):
    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class ChatCompletion(ResponseBody):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody
    service_tier: str
    system_fingerprint: str
    metadata: dict[str, str] | None = None


class ChangeStoredCompletion(RequestBody):
    metadata: Metadata | None


class StoredCompletionDeleted(ResponseBody):
    id: str
    object: Literal["chat.completion.deleted"] = "chat.completion.deleted"
    deleted: Literal[True] = True


class StoredMessage(ResponseBody):
    """A message as it was sent, with an id of its own."""

    id: str
    role: str
    content: str | None = None
    refusal: str | None = None
    content_parts: list[dict[str, Any]] | None = None
