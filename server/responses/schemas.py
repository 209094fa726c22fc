"""The bodies of requests to `/v1/responses`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.answering.tool_plan import MAX_TOOLS
from server.chat.schemas import JsonObjectFormat, TextFormat
from server.responses.items import MAX_ITEMS, InputItem
from server.responses.tools import ToolBody, ToolChoiceBody
from server.wire import Count, Metadata, ModelName, RequestBody, SamplingFields, several

MIN_OUTPUT_TOKENS = 16

Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class SchemaFormat(RequestBody):
    type: Literal["json_schema"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextSettings(RequestBody):
    format: (
        Annotated[TextFormat | JsonObjectFormat | SchemaFormat, Field(discriminator="type")] | None
    ) = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningSettings(RequestBody):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: str | None = None


class ResponseStreamOptions(RequestBody):
    include_obfuscation: bool | None = None


class ContextFields(RequestBody):
    """What the model is shown."""

    input: str | Annotated[list[InputItem], several(MAX_ITEMS)] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    tools: Annotated[list[ToolBody], several(MAX_TOOLS)] | None = None
    tool_choice: ToolChoiceBody | None = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    reasoning: ReasoningSettings | None = None
    truncation: Literal["auto", "disabled"] | None = None


class CountTokens(ContextFields):
    model: ModelName
    personality: Any = None


class CreateResponse(ContextFields, SamplingFields):
    model: ModelName
    max_output_tokens: Annotated[Count, Field(ge=MIN_OUTPUT_TOKENS)] | None = None
    max_tool_calls: Annotated[Count, Field(ge=1)] | None = None
    """Of built-in tools; there are none here."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: Annotated[list[Includable], several(16)] | None = None
    store: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    background: bool | None = None
    metadata: Metadata | None = None
    user: str | None = None
    safety_identifier: Annotated[str, Field(max_length=128)] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    prompt_cache_options: dict[str, Any] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    prompt: Any = None
    moderation: Any = None
    context_management: Any = None
    enable_thinking: bool | None = None
    thinking_budget: Annotated[Count, Field(ge=1)] | None = None
