"""Rows of training files: one JSON object a line, as OpenAI's fine-tuning takes them.

Three kinds: chat (`messages`, `tools`), prompt and completion, and plain text.
`templates.preferences` reads pairs of answers, `templates.labelled` answers with a label.
Reading a row checks all that can be told without the model, and turns OpenAI's message shapes into
a `Conversation`; what its chat format cannot write is told by `templates.training`. Counts, limits
and duplicate rows are the caller's to check. Messages of `ExampleError` follow OpenAI's wording and
never quote the row's text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from templates.conversation import (
    ChatMessage,
    Conversation,
    MediaKind,
    MediaPart,
    Part,
    Role,
    TextPart,
    Tool,
)
from templates.dataset_shapes import told_columns
from templates.example_fields import (
    ExampleError,
    JsonObject,
    RowNotes,
    check_encodable,
    object_of,
    only_fields,
    optional_text,
    parse_json,
    read_at,
    text_of,
    unknown_fields,
)
from templates.example_ids import with_ids
from templates.example_order import check_order
from templates.example_shapes import (
    UNEXPECTED_FORMAT,
    check_shape,
    own_message,
    own_part,
    shape_of,
)
from templates.example_tools import NO_ID, read_tool_calls, read_tools


@dataclass(frozen=True, slots=True)
class ChatExample:
    conversation: Conversation
    notes: RowNotes = field(default_factory=RowNotes)

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        return (self.conversation,)


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """Two conversations that differ in their last message."""

    chosen: Conversation
    rejected: Conversation
    notes: RowNotes = field(default_factory=RowNotes)

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        return (self.chosen, self.rejected)


@dataclass(frozen=True, slots=True)
class LabelledExample:
    """A conversation, and whether its last message is an answer that is wanted."""

    conversation: Conversation
    is_desirable: bool
    notes: RowNotes = field(default_factory=RowNotes)

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        return (self.conversation,)


@dataclass(frozen=True, slots=True)
class CompletionExample:
    prompt: str
    completion: str
    notes: RowNotes = field(default_factory=RowNotes)

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class TextExample:
    text: str
    notes: RowNotes = field(default_factory=RowNotes)

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        return ()


Example = ChatExample | PreferenceExample | LabelledExample | CompletionExample | TextExample

CHAT_KEYS = frozenset({"messages", "tools", "parallel_tool_calls", "functions"})
_MESSAGE_KEYS = frozenset({"role", "content", "name"})
_ASSISTANT_KEYS = _MESSAGE_KEYS | {
    "weight",
    "tool_calls",
    "function_call",
    "refusal",
    "reasoning_content",
    "reasoning",
}
_TOOL_KEYS = _MESSAGE_KEYS | {"tool_call_id"}


def read_example(line: str | bytes, *, pretraining: bool = False) -> Example:
    """A row of supervised training, or one of plain text. Raises ExampleError."""
    row = read_row(line)
    if pretraining:
        return _document(row)
    check_shape(row)
    notes = RowNotes()
    if "messages" in row:
        notes.ignored_columns = unknown_fields(row, CHAT_KEYS)
        return ChatExample(read_conversation(row, notes), notes)
    if "prompt" in row or "completion" in row:
        notes.ignored_columns = unknown_fields(row, frozenset({"prompt", "completion"}))
        completion = text_of(row, "completion")
        if not completion:
            raise ExampleError("'completion' is empty")
        return CompletionExample(text_of(row, "prompt"), completion, notes)
    if "text" in row:
        document = _document(row)
        return CompletionExample("", document.text, document.notes)
    raise ExampleError(f"{UNEXPECTED_FORMAT} {told_columns(row)}")


def read_row(line: str | bytes) -> JsonObject:
    """Raises ExampleError."""
    try:
        value = parse_json(line)
    except ExampleError as error:
        raise ExampleError(f"line contains {error}") from error
    return shape_of(value)


def _document(row: JsonObject) -> TextExample:
    if "text" not in row:
        raise ExampleError("pretraining takes rows of the form {'text': ...}")
    text = text_of(row, "text")
    if not text:
        raise ExampleError("'text' is empty")
    return TextExample(text, RowNotes(unknown_fields(row, frozenset({"text"}))))


def read_conversation(row: JsonObject, notes: RowNotes) -> Conversation:
    """Raises ExampleError."""
    tools = read_tool_fields(row)
    return checked(Conversation(read_messages(row, notes), tools))


def read_tool_fields(row: JsonObject) -> tuple[Tool, ...]:
    """Raises ExampleError."""
    if not isinstance(row.get("parallel_tool_calls"), bool | None):
        raise ExampleError("'parallel_tool_calls' must be a boolean")
    return read_tools(row)


def read_messages(
    row: JsonObject, notes: RowNotes, field_name: str = "messages", place: str = "message"
) -> tuple[ChatMessage, ...]:
    """Raises ExampleError."""
    raw = row.get(field_name)
    if not isinstance(raw, list) or not raw:
        raise ExampleError(f"'{field_name}' must be a non-empty array")
    return with_ids(
        [
            read_at(f"{place} {number}", lambda value: _message(value, notes), item)
            for number, item in enumerate(cast(list[object], raw), 1)
        ]
    )


def checked(conversation: Conversation) -> Conversation:
    """Calls, weights and the order of messages. Raises ExampleError."""
    messages, tools = conversation.messages, conversation.tools
    declared = {tool.name for tool in tools}
    for number, message in enumerate(messages, 1):
        for call in message.tool_calls:
            if call.name not in declared:
                raise ExampleError(f"message {number} calls a tool that 'tools' does not declare")
    if not any(message.role is Role.ASSISTANT and message.weight != 0 for message in messages):
        raise ExampleError("there must be at least one assistant message with weight 1")
    check_order(messages)
    return conversation


def _message(value: object, notes: RowNotes) -> ChatMessage:
    message = own_message(object_of(value, "a message"))
    if "role" not in message:
        raise ExampleError("Discriminator 'role' is missing in value")
    match message["role"]:
        case "assistant":
            return _assistant(message, notes)
        case "tool":
            only_fields(message, _TOOL_KEYS, "")
            call_id = optional_text(message, "tool_call_id") or NO_ID
            parts = _content(message)
            name = optional_text(message, "name")
            return ChatMessage(Role.TOOL, parts, tool_call_id=call_id, name=name)
        case "function":
            only_fields(message, _MESSAGE_KEYS, "")
            parts = () if message.get("content") is None else _content(message)
            return ChatMessage(Role.TOOL, parts, name=text_of(message, "name"))
        case "system" | "developer" | "user" as role:
            only_fields(message, _MESSAGE_KEYS, "")
            parts = _content(message, allow_images=role == "user")
            return ChatMessage(Role(role), parts, name=optional_text(message, "name"))
        case _:
            raise ExampleError(
                "'role' must be one of system, developer, user, assistant, tool, function"
            )


def _assistant(message: JsonObject, notes: RowNotes) -> ChatMessage:
    only_fields(message, _ASSISTANT_KEYS, "")
    weight = message.get("weight")
    if weight is not None and (type(weight) is not int or weight not in (0, 1)):
        raise ExampleError("'weight' must be 0 or 1")
    calls = read_tool_calls(message, notes)
    refusal = optional_text(message, "refusal")
    parts: tuple[Part, ...] = ()
    if message.get("content") is not None:
        if refusal:
            raise ExampleError("has both 'content' and 'refusal'")
        parts = _content(message)
    elif refusal is not None:
        parts = (TextPart(refusal),)
    elif not calls:
        raise ExampleError("an assistant message needs 'content' or 'tool_calls'")
    return ChatMessage(
        Role.ASSISTANT,
        parts,
        reasoning=_reasoning(message),
        tool_calls=calls,
        name=optional_text(message, "name"),
        weight=weight,
    )


def _reasoning(message: JsonObject) -> str | None:
    """By either name that answers of servers have it under."""
    given = optional_text(message, "reasoning_content")
    other = optional_text(message, "reasoning")
    if given is not None and other is not None and given != other:
        raise ExampleError("'reasoning' and 'reasoning_content' differ")
    return other if given is None else given


def _content(message: JsonObject, *, allow_images: bool = False) -> tuple[Part, ...]:
    content = message.get("content")
    if isinstance(content, str):
        check_encodable(content, "content")
        return (TextPart(content),)
    if not isinstance(content, list) or not content:
        raise ExampleError("'content' must be a string or a non-empty array of parts")
    return tuple(
        read_at(f"content part {number}", lambda item: _part(item, allow_images), item)
        for number, item in enumerate(cast(list[object], content), 1)
    )


def _part(value: object, allow_images: bool) -> Part:
    part = own_part(object_of(value, "a content part"))
    match part.get("type"):
        case "text":
            only_fields(part, frozenset({"type", "text"}), "")
            return TextPart(text_of(part, "text"))
        case "image_url" if allow_images:
            only_fields(part, frozenset({"type", "image_url"}), "")
            image = object_of(part.get("image_url"), "'image_url'")
            only_fields(image, frozenset({"url", "detail"}), "image_url.")
            detail = optional_text(image, "detail")
            return MediaPart(MediaKind.IMAGE, text_of(image, "url"), detail)
        case _:
            raise ExampleError("'type' of a content part is not one this message may have")
