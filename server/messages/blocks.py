"""The content blocks of messages. `cache_control` is taken and changes nothing: prefixes are cached
by the engine as they are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.chat.messages import MAX_PARTS
from server.wire import RequestBody, several


class Cacheable(RequestBody):
    cache_control: dict[str, Any] | None = None


class TextBlock(Cacheable):
    """`citations` are what answers carry, taken back."""

    type: Literal["text"]
    text: str
    citations: Annotated[list[dict[str, Any]], several(MAX_PARTS)] | None = None


class EncodedImage(RequestBody):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class LinkedImage(RequestBody):
    type: Literal["url"]
    url: str


class ImageBlock(Cacheable):
    type: Literal["image"]
    source: Annotated[EncodedImage | LinkedImage, Field(discriminator="type")]


class ToolUseBlock(Cacheable):
    type: Literal["tool_use"]
    id: Annotated[str, Field(max_length=256)]
    name: str
    input: dict[str, Any]


class ToolResultBlock(Cacheable):
    type: Literal["tool_result"]
    tool_use_id: str
    content: (
        str
        | Annotated[
            list[Annotated[TextBlock | ImageBlock, Field(discriminator="type")]],
            several(MAX_PARTS),
        ]
        | None
    ) = None
    is_error: bool | None = None


class ThinkingBlock(RequestBody):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(RequestBody):
    type: Literal["redacted_thinking"]
    data: str


Block = Annotated[
    TextBlock | ImageBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock,
    Field(discriminator="type"),
]
