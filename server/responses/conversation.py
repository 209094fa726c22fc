"""From input items to the messages of a conversation.

An assistant's turn is one message here and several items there: reasoning, text, function calls.
Every call has its output before anybody else speaks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from server.errors import InvalidRequest, invalid_value, unsupported_parameter, unsupported_value
from server.responses.items import (
    CallItem,
    InputImage,
    InputSound,
    InputText,
    ItemReference,
    Message,
    OtherItem,
    OutputItem,
    OutputText,
    Reasoning,
    Refusal,
)
from server.responses.thoughts import open_thought
from templates.conversation import ChatMessage, MediaKind, MediaPart, Part, Role, TextPart, ToolCall

Item = Message | CallItem | OutputItem | Reasoning | ItemReference | OtherItem
_ROLES = {"developer": Role.DEVELOPER, "system": Role.SYSTEM, "user": Role.USER}


@dataclass(slots=True)
class _Turn:
    """What the assistant says without a break."""

    place: str
    thoughts: list[str] = field(default_factory=list[str])
    parts: list[TextPart] = field(default_factory=list[TextPart])
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    call_places: list[str] = field(default_factory=list[str])
    call_ids: set[str] = field(default_factory=set[str])


class Transcript:
    """Collects messages and where each of them, and each function call, stands in the request."""

    def __init__(self) -> None:
        self.messages: list[ChatMessage] = []
        self.places: list[str] = []
        self.calls: dict[tuple[int, int], str] = {}
        self._turn: _Turn | None = None
        self._unanswered: dict[str, None] = {}
        """Ids of calls that the last assistant message made."""

    def say(self, role: Role, text: str, place: str) -> None:
        self.end_turn()
        self._add(ChatMessage(role, (TextPart(text),)), place)

    def add(self, item: Item, place: str) -> None:
        """Raises InvalidRequest."""
        if isinstance(item, Message):
            self._add_message(item, place)
        elif isinstance(item, CallItem):
            self._add_call(item, place)
        elif isinstance(item, OutputItem):
            self._add_output(item, place)
        elif isinstance(item, Reasoning):
            self._add_thought(item, place)
        elif isinstance(item, OtherItem):
            raise unsupported_value(
                f"{place}.type", f"Items of the type '{item.type[:64]}' are not supported here."
            )
        else:
            raise AssertionError("references are resolved before")

    def end_turn(self) -> None:
        """Somebody else speaks, or it is the model's turn. Raises InvalidRequest for a call without
        its output."""
        self._flush()
        if self._unanswered:
            raise InvalidRequest(
                f"No tool output found for function call {next(iter(self._unanswered))}.",
                param="input",
                code="invalid_value",
            )

    def _add_message(self, item: Message, place: str) -> None:
        if item.phase == "commentary":
            raise unsupported_value(f"{place}.phase", "Messages have no phase but the final one.")
        if item.role != "assistant":
            self.end_turn()
            parts = _parts(item, place)
            self._add(ChatMessage(_ROLES[item.role], parts), place)
            return
        turn = self._turn
        if turn is None or (turn.parts and not turn.calls):
            turn = self._begin_turn(place)
        turn.parts += _said(item, place)

    def _add_thought(self, item: Reasoning, place: str) -> None:
        turn = self._turn
        if turn is None or (turn.parts and not turn.calls):
            turn = self._begin_turn(place)
        thought = "".join(part.text for part in item.content or ())
        if not thought and item.encrypted_content is not None:
            opened = open_thought(item.encrypted_content)
            if opened is None:
                raise InvalidRequest(
                    f"Invalid '{place}.encrypted_content': it was not made by this server.",
                    param=f"{place}.encrypted_content",
                    code="invalid_encrypted_content",
                )
            thought = opened
        if thought:
            turn.thoughts.append(thought)

    def _add_call(self, item: CallItem, place: str) -> None:
        _refuse_callers(item, place)
        if item.async_:
            raise unsupported_parameter(
                f"{place}.async", "Calls are answered before the next turn."
            )
        turn = self._turn or self._begin_turn(place)
        if item.call_id in turn.call_ids:
            raise invalid_value(f"{place}.call_id", f"'{item.call_id}' is given twice.")
        turn.call_ids.add(item.call_id)
        turn.calls.append(ToolCall(item.name, item.arguments, item.call_id))
        turn.call_places.append(place)

    def _add_output(self, item: OutputItem, place: str) -> None:
        _refuse_callers(item, place)
        self._flush()
        if item.call_id not in self._unanswered:
            raise InvalidRequest(
                f"No tool call found for function call output with call_id {item.call_id}.",
                param=f"{place}.call_id",
                code="invalid_value",
            )
        del self._unanswered[item.call_id]
        parts = (TextPart(item.output),) if isinstance(item.output, str) else _results(item, place)
        self._add(ChatMessage(Role.TOOL, parts, tool_call_id=item.call_id), place)

    def _begin_turn(self, place: str) -> _Turn:
        self.end_turn()
        self._turn = _Turn(place)
        return self._turn

    def _flush(self) -> None:
        turn, self._turn = self._turn, None
        if turn is None:
            return
        if not (turn.parts or turn.calls):
            turn.parts.append(TextPart(""))
        for number, place in enumerate(turn.call_places):
            self.calls[len(self.messages), number] = place
        self._unanswered = {call.id: None for call in turn.calls if call.id is not None}
        message = ChatMessage(
            Role.ASSISTANT,
            tuple(turn.parts),
            reasoning="\n\n".join(turn.thoughts) or None,
            tool_calls=tuple(turn.calls),
        )
        self._add(message, turn.place)

    def _add(self, message: ChatMessage, place: str) -> None:
        self.messages.append(message)
        self.places.append(place)


def _refuse_callers(item: CallItem | OutputItem, place: str) -> None:
    if item.namespace is not None:
        raise unsupported_parameter(f"{place}.namespace", "There are no namespaces of functions.")
    if item.caller not in (None, {"type": "direct"}):
        raise unsupported_parameter(f"{place}.caller", "Functions are called by the model only.")


def _said(item: Message, place: str) -> list[TextPart]:
    if isinstance(item.content, str):
        return [TextPart(item.content)]
    texts: list[TextPart] = []
    for number, part in enumerate(item.content):
        if isinstance(part, OutputText):
            texts.append(TextPart(part.text))
        elif isinstance(part, Refusal):
            texts.append(TextPart(part.refusal))
        else:
            raise _wrong_part(
                part.type, "'output_text' and 'refusal'", f"{place}.content[{number}]"
            )
    return texts


def _parts(item: Message, place: str) -> tuple[Part, ...]:
    if isinstance(item.content, str):
        return (TextPart(item.content),)
    if not item.content:
        raise InvalidRequest(
            f"Invalid '{place}.content': empty array. Expected an array with minimum length 1, "
            "but got an empty array instead.",
            param=f"{place}.content",
            code="empty_array",
        )
    parts: list[Part] = []
    for number, part in enumerate(item.content):
        where = f"{place}.content[{number}]"
        if isinstance(part, InputText):
            parts.append(TextPart(part.text))
        elif item.role != "user":
            raise _wrong_part(part.type, "'input_text'", where)
        elif isinstance(part, InputImage):
            parts.append(_picture(part, where))
        elif isinstance(part, InputSound):
            sound = part.input_audio
            url = f"data:audio/{sound.format};base64,{sound.data}"
            parts.append(MediaPart(MediaKind.AUDIO, url, place=where))
        elif isinstance(part, OutputText | Refusal):
            raise _wrong_part(part.type, "'input_text', 'input_image' and 'input_audio'", where)
        else:
            raise unsupported_value(f"{where}.type", "Files are not supported in messages.")
    return tuple(parts)


def _picture(part: InputImage, place: str) -> MediaPart:
    if part.file_id is not None:
        raise unsupported_parameter(
            f"{place}.file_id", "Pictures are given by 'image_url', also as a data URL."
        )
    if part.image_url is None:
        raise InvalidRequest(
            f"Missing required parameter: '{place}.image_url'.",
            param=f"{place}.image_url",
            code="missing_required_parameter",
        )
    if part.detail == "original":
        raise unsupported_value(f"{place}.detail", "It must be 'auto', 'low' or 'high'.")
    return MediaPart(MediaKind.IMAGE, part.image_url, part.detail, place)


def _results(item: OutputItem, place: str) -> tuple[Part, ...]:
    texts: list[Part] = []
    for number, part in enumerate(item.output):
        if not isinstance(part, InputText):
            where = f"{place}.output[{number}].type"
            raise unsupported_value(where, "Functions give back text only.")
        texts.append(TextPart(part.text))
    return tuple(texts) or (TextPart(""),)


def _wrong_part(kind: str, allowed: str, place: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid value: '{kind}'. Supported values are: {allowed}.",
        param=f"{place}.type",
        code="invalid_value",
    )
