"""Rows of preferences: one prompt, a preferred answer and one that is not, as OpenAI's DPO takes
them. Either spelling of the answers is read (`preferred_output`, and `preferred_completion` of
earlier specifications)."""

from __future__ import annotations

from msgspec.structs import replace

from templates.conversation import ChatMessage, Conversation, Role
from templates.example_fields import (
    ExampleError,
    JsonObject,
    RowNotes,
    object_of,
    only_fields,
    read_at,
    unknown_fields,
)
from templates.example_shapes import check_columns
from templates.examples import (
    CHAT_KEYS,
    PreferenceExample,
    checked,
    read_messages,
    read_row,
    read_tool_fields,
)

_SPELLINGS = (
    ("preferred_output", "non_preferred_output"),
    ("preferred_completion", "non_preferred_completion"),
)
_EXPECTED = "a row of preferences has 'input', 'preferred_output' and 'non_preferred_output'"


def read_preference(line: str | bytes, method: str = "dpo") -> PreferenceExample:
    """`method` is named to who has a row of another one. Raises ExampleError."""
    row = read_row(line)
    if "input" not in row:
        raise ExampleError(_instead(row, method))
    names = next((pair for pair in _SPELLINGS if pair[0] in row or pair[1] in row), None)
    if names is None:
        raise ExampleError(_EXPECTED)
    check_columns(row)
    notes = RowNotes(unknown_fields(row, frozenset({"input", *names})))
    given = object_of(row["input"], "'input'")
    only_fields(given, CHAT_KEYS, "input.")
    told = Conversation(read_messages(given, notes, place="input message"), read_tool_fields(given))
    chosen, rejected = (_answered(told, row, name, notes) for name in names)
    return PreferenceExample(chosen, rejected, notes)


def _answered(told: Conversation, row: JsonObject, name: str, notes: RowNotes) -> Conversation:
    answer = _answer(row, name, notes)
    whole = replace(told, messages=(*told.messages, answer))
    return read_at(f"with '{name}' as the answer,", lambda _: checked(whole), None)


def _answer(row: JsonObject, name: str, notes: RowNotes) -> ChatMessage:
    messages = read_messages(row, notes, name, f"{name} message")
    if len(messages) != 1 or messages[0].role is not Role.ASSISTANT:
        raise ExampleError(f"'{name}' must be one message of the assistant")
    if messages[0].weight == 0:
        raise ExampleError(f"{name} message 1 'weight' must be 1")
    return messages[0]


def _instead(row: JsonObject, method: str) -> str:
    """What to do with a row of another method or trainer."""
    if "messages" in row and isinstance(row.get("label"), bool):
        return f"this is a row of the KTO method: {_EXPECTED}"
    if "chosen" in row or "rejected" in row:
        return (
            "'chosen' and 'rejected' are LLaMA-Factory's: write them as one assistant message each "
            "in 'preferred_output' and 'non_preferred_output', and what is before them as "
            "'messages' in 'input'"
        )
    if "messages" in row or "prompt" in row:
        kind = "fine-tune-chat" if "messages" in row else "fine-tune-completions"
        return (
            f"the row is in the {kind} format, but the job is not using 'supervised' as the "
            f"training method (provided method={method})"
        )
    return _EXPECTED
