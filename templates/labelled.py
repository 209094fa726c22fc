"""Rows of answers that are wanted or not: a conversation, and whether its last answer is desirable
(`label`; `kto_tag` in LLaMA-Factory's words)."""

from __future__ import annotations

from templates.dataset_format import LABELS
from templates.example_fields import (
    ExampleError,
    JsonObject,
    RowNotes,
    unknown_fields,
)
from templates.example_shapes import check_columns
from templates.examples import (
    CHAT_KEYS,
    LabelledExample,
    read_conversation,
    read_row,
)

_EXPECTED = (
    "a row of the KTO method has 'messages', which end with an answer, and a 'label': true for an "
    "answer that is wanted, false for one that is not"
)


def read_labelled(line: str | bytes) -> LabelledExample:
    """Raises ExampleError."""
    row = read_row(line)
    name = next((name for name in LABELS if row.get(name) is not None), None)
    if "messages" not in row or name is None:
        raise ExampleError(_instead(row))
    label = row[name]
    if not isinstance(label, int | float) or label not in (0, 1):
        raise ExampleError(f"'{name}' must be true or false")
    check_columns(row)
    notes = RowNotes(unknown_fields(row, CHAT_KEYS | {name}))
    conversation = read_conversation(row, notes)
    if conversation.messages[-1].weight == 0:
        raise ExampleError("the last message's 'weight' must be 1")
    return LabelledExample(conversation, bool(label), notes)


def _instead(row: JsonObject) -> str:
    """What to do with a row of another method."""
    if "preferred_output" in row or "chosen" in row:
        return f"this is a row of preferences, for method.type 'dpo': {_EXPECTED}"
    if "messages" in row:
        return f"the row has no 'label': {_EXPECTED}"
    if "prompt" in row and "completion" in row:
        return f"write 'prompt' and 'completion' as 'messages': {_EXPECTED}"
    return _EXPECTED
