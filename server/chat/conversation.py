"""From the messages of a request to the conversation a chat format renders, and the checks on
their order."""

from __future__ import annotations

from collections.abc import Sequence

from server.chat.messages import (
    AnyMessage,
    AssistantMessage,
    AudioContent,
    AudioUrlContent,
    ImageContent,
    RefusalContent,
    TextContent,
    ToolMessage,
    VideoUrlContent,
)
from server.errors import InvalidRequest, invalid_value, unsupported_parameter
from templates.conversation import (
    ChatMessage,
    MediaKind,
    MediaPart,
    Part,
    Role,
    TextPart,
    ToolCall,
)

_ROLES = {"developer": Role.DEVELOPER, "system": Role.SYSTEM, "user": Role.USER}


def read_messages(bodies: Sequence[AnyMessage]) -> tuple[ChatMessage, ...]:
    """Raises InvalidRequest."""
    messages: list[ChatMessage] = []
    order = _ToolOrder()
    for index, body in enumerate(bodies):
        order.check(body, index)
        messages.append(_read(body, index))
    order.check_answered()
    return tuple(messages)


def _place(index: int) -> str:
    return f"messages[{index}]"


class _ToolOrder:
    """Every tool call is answered by a tool message before anyone else speaks, and a tool message
    answers a call."""

    def __init__(self) -> None:
        self._open: dict[str, None] = {}
        self._caller: int | None = None
        """The assistant message whose calls are being answered."""

    def check(self, body: AnyMessage, index: int) -> None:
        if body.role == "tool":
            self._answer(body, _place(index))
            return
        self.check_answered()
        self._caller = None
        if body.role == "assistant" and body.tool_calls:
            self._open = dict.fromkeys(call.id for call in body.tool_calls)
            self._caller = index

    def check_answered(self) -> None:
        if self._open:
            raise InvalidRequest(
                "An assistant message with 'tool_calls' must be followed by tool messages "
                "responding to each 'tool_call_id'. The following tool_call_ids did not have "
                f"response messages: {', '.join(self._open)}",
                param=None if self._caller is None else _place(self._caller),
                code="invalid_value",
            )

    def _answer(self, body: ToolMessage, place: str) -> None:
        if self._caller is None:
            raise InvalidRequest(
                "Invalid parameter: messages with role 'tool' must be a response to a preceding "
                "message with 'tool_calls'.",
                param=f"{place}.role",
                code="invalid_value",
            )
        if body.tool_call_id not in self._open:
            raise invalid_value(
                f"{place}.tool_call_id",
                f"'{body.tool_call_id}' is no tool call of the assistant message before it that "
                "still needs an answer.",
            )
        del self._open[body.tool_call_id]


def _read(body: AnyMessage, index: int) -> ChatMessage:
    """Told apart by role: asking for the class costs much more with pydantic's models."""
    if body.role == "assistant":
        return _read_assistant(body, index)
    if body.role == "function":
        return ChatMessage(Role.TOOL, (TextPart(body.content or ""),), name=body.name)
    parts = _parts(body.content, index)
    if body.role == "tool":
        return ChatMessage(Role.TOOL, parts, tool_call_id=body.tool_call_id, name=body.name)
    return ChatMessage(_ROLES[body.role], parts, name=body.name)


def _read_assistant(body: AssistantMessage, index: int) -> ChatMessage:
    if body.audio is not None:
        raise unsupported_parameter(f"{_place(index)}.audio", "Audio is not supported.")
    calls = tuple(
        ToolCall(call.function.name, call.function.arguments, call.id)
        for call in body.tool_calls or ()
    )
    if body.function_call is not None:
        calls += (ToolCall(body.function_call.name, body.function_call.arguments),)
    content = body.content if body.content is not None else body.refusal
    if content is None and not calls:
        place = f"{_place(index)}.content"
        raise InvalidRequest(
            f"Invalid type for '{place}': expected a string, but got null instead.",
            param=place,
            code="invalid_type",
        )
    return ChatMessage(
        Role.ASSISTANT,
        () if content is None else _parts(content, index),
        reasoning=body.reasoning_content if body.reasoning_content is not None else body.reasoning,
        tool_calls=calls,
        name=body.name,
    )


def _parts(content: str | Sequence[object], index: int) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    parts: list[Part] = []
    for number, part in enumerate(content):
        if isinstance(part, TextContent):
            parts.append(TextPart(part.text))
        elif isinstance(part, RefusalContent):
            parts.append(TextPart(part.refusal))
        else:
            parts.append(_media(part, f"{_place(index)}.content[{number}]"))
    return tuple(parts)


def _media(part: object, place: str) -> MediaPart:
    """Sound inside the request becomes a data URL, so that there is one way to read it."""
    match part:
        case ImageContent(image_url=image):
            return MediaPart(MediaKind.IMAGE, image.url, image.detail, place)
        case VideoUrlContent(video_url=video):
            return MediaPart(MediaKind.VIDEO, video.url, place=place)
        case AudioUrlContent(audio_url=audio):
            return MediaPart(MediaKind.AUDIO, audio.url, place=place)
        case AudioContent(input_audio=audio):
            url = f"data:audio/{audio.format};base64,{audio.data}"
            return MediaPart(MediaKind.AUDIO, url, place=place)
        case _:
            raise InvalidRequest(
                f"Unsupported value: '{place}'. Files are not supported in messages.",
                param=place,
                code="unsupported_value",
            )
