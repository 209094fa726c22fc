"""What a chat format renders: messages, tools and the options that change the rendering."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class Value(msgspec.Struct, frozen=True, gc=False):
    """Base of what a format reads and writes; made by the dozen for every request, so cheaply."""


class Role(StrEnum):
    DEVELOPER = "developer"
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class MediaKind(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


class TextPart(Value, frozen=True):
    text: str


class MediaPart(Value, frozen=True):
    """A picture, clip or sound by reference; the worker's processor expands it."""

    kind: MediaKind
    url: str
    """A data URL, or a URL the gateway has allowed and fetched."""
    detail: str | None = None
    place: str | None = None
    """The request's field, for errors (`messages[0].content[1]`)."""


Part = TextPart | MediaPart


class ToolCall(Value, frozen=True):
    name: str
    arguments: str
    """JSON text, as in OpenAI's `function.arguments`."""
    id: str | None = None


class ChatMessage(Value, frozen=True):
    role: Role
    parts: tuple[Part, ...] = ()
    reasoning: str | None = None
    """Thinking of an assistant message, apart from its content."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    weight: int | None = None
    """Training only: 0 keeps an assistant message out of the loss."""

    @property
    def text(self) -> str:
        if len(self.parts) == 1 and isinstance(self.parts[0], TextPart):
            return self.parts[0].text
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


class Tool(Value, frozen=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments; None takes none."""
    strict: bool = False


class RenderOptions(Value, frozen=True):
    enable_thinking: bool | None = None
    """None: as the model does by default."""
    reasoning_effort: str | None = None
    thinking_budget: int | None = None
    """Most tokens of thinking. None: as many as the model likes."""
    preserve_thinking: bool | None = None
    """Keep the thoughts of earlier turns in the prompt. None: as the family does."""
    prefer_thoughts: bool = False
    """Keep the thoughts of earlier turns where the format can; elsewhere as the family does."""
    keep_given_thoughts: bool = False
    """Training with thinking off: an answer that has a thought keeps it all the same."""
    continue_final_message: bool = False
    """The last message is an assistant's and is continued, not answered."""
    documents: tuple[dict[str, Any], ...] = ()
    template_kwargs: dict[str, Any] = {}
    """`chat_template_kwargs`: passed to a Jinja template, refused by a named format."""


class Conversation(Value, frozen=True):
    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...] = ()
    options: RenderOptions = RenderOptions()
