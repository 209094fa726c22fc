"""The bodies of message requests and, for the API's documentation, of their answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from server.answering.tool_plan import MAX_TOOLS
from server.chat.messages import MAX_PARTS
from server.chat.schemas import MAX_MESSAGES
from server.messages.blocks import Block, TextBlock
from server.wire import (
    MAX_COUNT,
    Count,
    ModelName,
    Probability,
    RequestBody,
    ResponseBody,
    StopText,
    StreamableBody,
    Temperature,
    several,
)

MAX_STOPS = 16


class MessageTurn(RequestBody):
    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[Block], several(MAX_PARTS)]


class CallerTool(RequestBody):
    """`eager_input_streaming` changes nothing: a call's input is always streamed."""

    type: Literal["custom"] | None = None
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None
    eager_input_streaming: bool | None = None


class HostedTool(RequestBody):
    """One that Anthropic runs; refused by name."""

    model_config = ConfigDict(extra="allow")
    type: str


def _tool_kind(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else None
    return "hosted" if isinstance(kind, str) and kind != "custom" else "caller"


AnyTool = Annotated[
    Annotated[CallerTool, Tag("caller")] | Annotated[HostedTool, Tag("hosted")],
    Discriminator(_tool_kind),
]


class ToolUse(RequestBody):
    type: Literal["auto", "any"]
    disable_parallel_tool_use: bool | None = None


class NoChoice(RequestBody):
    type: Literal["none"]


class ForcedTool(RequestBody):
    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None


Display = Literal["summarized", "omitted"]


class ThinkingOn(RequestBody):
    type: Literal["enabled"]
    budget_tokens: Annotated[Count, Field(ge=1)]
    display: Display | None = None


class ThinkingAdaptive(RequestBody):
    type: Literal["adaptive"]
    display: Display | None = None


class ThinkingOff(RequestBody):
    type: Literal["disabled"]


class MessageFormat(RequestBody):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(RequestBody):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: MessageFormat | None = None


class RequestMetadata(RequestBody):
    user_id: Annotated[str, Field(max_length=512)] | None = None


class CountMessageTokens(RequestBody):
    model: ModelName
    messages: Annotated[list[MessageTurn], several(MAX_MESSAGES, 1)]
    system: str | Annotated[list[TextBlock], several(MAX_PARTS)] | None = None
    tools: Annotated[list[AnyTool], several(MAX_TOOLS)] | None = None
    tool_choice: Annotated[ToolUse | NoChoice | ForcedTool, Field(discriminator="type")] | None = (
        None
    )
    thinking: (
        Annotated[ThinkingOn | ThinkingAdaptive | ThinkingOff, Field(discriminator="type")] | None
    ) = None
    output_config: OutputConfig | None = None
    cache_control: dict[str, Any] | None = None

    @property
    def shows_thoughts(self) -> bool:
        return getattr(self.thinking, "display", None) != "omitted"


class CreateMessage(CountMessageTokens, StreamableBody):
    """`metadata` and `service_tier` change nothing here."""

    max_tokens: Annotated[Count, Field(ge=1)]
    stop_sequences: Annotated[list[StopText], several(MAX_STOPS)] | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None = None
    metadata: RequestMetadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


class MessageUsage(ResponseBody):
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int


class MessageObject(ResponseBody):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessageUsage


class MessageTokens(ResponseBody):
    input_tokens: int
