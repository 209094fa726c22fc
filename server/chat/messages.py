"""Messages of a chat request as they arrive, by role."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.wire import RequestBody


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
NotEmpty = Field(min_length=1)


class FunctionCall(RequestBody):
    name: str
    arguments: str


class FunctionToolCall(RequestBody):
    id: str
    type: Literal["function"]
    function: FunctionCall


class DeveloperMessage(RequestBody):
    role: Literal["developer"]
    content: str | Annotated[list[TextContent], NotEmpty]
    name: str | None = None


class SystemMessage(RequestBody):
    role: Literal["system"]
    content: str | Annotated[list[TextContent], NotEmpty]
    name: str | None = None


class UserMessage(RequestBody):
    role: Literal["user"]
    content: str | Annotated[list[UserPart], NotEmpty]
    name: str | None = None


class AssistantMessage(RequestBody):
    """`reasoning_content` and `reasoning` are what our own answers carry, taken back."""

    role: Literal["assistant"]
    content: str | list[AssistantPart] | None = None
    refusal: str | None = None
    name: str | None = None
    audio: dict[str, Any] | None = None
    tool_calls: Annotated[list[FunctionToolCall], NotEmpty] | None = None
    function_call: FunctionCall | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    annotations: list[dict[str, Any]] | None = None


class ToolMessage(RequestBody):
    role: Literal["tool"]
    content: str | Annotated[list[TextContent], NotEmpty]
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
