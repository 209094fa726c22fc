"""Messages of a chat request as they arrive, by role."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.wire import RequestBody, several


class TextContent(RequestBody):
    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: dict[str, Any] | None = None


class RefusalContent(RequestBody):
    type: Literal["refusal"]
    refusal: str


class ImageUrl(RequestBody):
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImageContent(RequestBody):
    type: Literal["image_url"]
    image_url: ImageUrl
    prompt_cache_breakpoint: dict[str, Any] | None = None


class InputAudio(RequestBody):
    data: str
    format: Literal["wav", "mp3"]


class AudioContent(RequestBody):
    type: Literal["input_audio"]
    input_audio: InputAudio
    prompt_cache_breakpoint: dict[str, Any] | None = None


class MediaUrl(RequestBody):
    url: str


class VideoUrlContent(RequestBody):
    """As vLLM has it; OpenAI has no video."""

    type: Literal["video_url"]
    video_url: MediaUrl


class AudioUrlContent(RequestBody):
    """As vLLM has it, beside OpenAI's `input_audio`."""

    type: Literal["audio_url"]
    audio_url: MediaUrl


class FileReference(RequestBody):
    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class FileContent(RequestBody):
    type: Literal["file"]
    file: FileReference
    prompt_cache_breakpoint: dict[str, Any] | None = None


UserPart = Annotated[
    TextContent | ImageContent | AudioContent | VideoUrlContent | AudioUrlContent | FileContent,
    Field(discriminator="type"),
]
AssistantPart = Annotated[TextContent | RefusalContent, Field(discriminator="type")]
MAX_PARTS = 1024
"""Of one message's content."""
MAX_CALLS = 256
"""Of one assistant message."""
Texts = Annotated[list[TextContent], several(MAX_PARTS, 1)]


class FunctionCall(RequestBody):
    """`parsed_arguments` is what `.parse()` and `.stream()` of OpenAI's SDKs add."""

    name: str
    arguments: str
    parsed_arguments: Any = None


class FunctionToolCall(RequestBody):
    """`index` is what accumulated chunks of a stream carry."""

    id: str
    type: Literal["function"]
    function: FunctionCall
    index: int | None = None


class DeveloperMessage(RequestBody):
    role: Literal["developer"]
    content: str | Texts
    name: str | None = None


class SystemMessage(RequestBody):
    role: Literal["system"]
    content: str | Texts
    name: str | None = None


class UserMessage(RequestBody):
    role: Literal["user"]
    content: str | Annotated[list[UserPart], several(MAX_PARTS, 1)]
    name: str | None = None


class AssistantMessage(RequestBody):
    """`reasoning_content` and `reasoning` are what our own answers carry, taken back; `parsed` is
    what `.parse()` of OpenAI's SDKs adds, and says nothing that `content` does not."""

    role: Literal["assistant"]
    content: str | Annotated[list[AssistantPart], several(MAX_PARTS)] | None = None
    refusal: str | None = None
    name: str | None = None
    audio: dict[str, Any] | None = None
    tool_calls: Annotated[list[FunctionToolCall], several(MAX_CALLS)] | None = None
    function_call: FunctionCall | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    annotations: Annotated[list[dict[str, Any]], several(MAX_PARTS)] | None = None
    parsed: Any = None


class ToolMessage(RequestBody):
    role: Literal["tool"]
    content: str | Texts
    tool_call_id: str
    name: str | None = None


class FunctionMessage(RequestBody):
    role: Literal["function"]
    content: str | None
    name: str


AnyMessage = (
    DeveloperMessage
    | SystemMessage
    | UserMessage
    | AssistantMessage
    | ToolMessage
    | FunctionMessage
)
MessageBody = Annotated[AnyMessage, Field(discriminator="role")]
