"""Rows in shapes of other trainers and methods: what they are, and what to make of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from templates.example_fields import ExampleError, JsonObject

UNEXPECTED_FORMAT = (
    "Unexpected file format, expected either prompt/completion pairs or chat messages."
)

_PREFERENCE = (
    "this is a row of preferences, which supervised training cannot use: train with method.type "
    "'dpo', or keep the better answer alone, as the last message of 'messages'"
)
_SHAPES: tuple[tuple[Callable[[JsonObject], bool], str], ...] = (
    (
        lambda row: "preferred_output" in row or "preferred_completion" in row,
        _PREFERENCE,
    ),
    (lambda row: "chosen" in row or "rejected" in row, _PREFERENCE),
    (
        lambda row: "messages" in row and isinstance(row.get("label"), bool),
        "this is a row of the KTO method ('messages' with a 'label'), which supervised training "
        "cannot use: train with method.type 'kto', or keep the rows whose label is true, without "
        "the label",
    ),
    (
        lambda row: "conversations" in row and "messages" not in row,
        "this is a sharegpt row: rename 'conversations' to 'messages', 'from' to 'role' (human to "
        "user, gpt to assistant, observation to tool) and 'value' to 'content'",
    ),
    (
        lambda row: "instruction" in row and "output" in row,
        "this is an alpaca row: write 'instruction' and 'input' as the user's message and 'output' "
        "as the assistant's, in 'messages'",
    ),
    (
        lambda row: "custom_id" in row and "body" in row,
        "this is a line of a batch file, not an example",
    ),
    (
        lambda row: "text" in row and "messages" not in row and "prompt" not in row,
        "this is plain text for pretraining, which supervised training cannot use: train with "
        "method.type 'pretrain', or write it as the 'completion' of an empty 'prompt'",
    ),
)
_PAIRS = (("question", "answer"), ("query", "response"), ("input", "output"), ("Q", "A"))
_MEDIA_COLUMNS = frozenset({"images", "videos", "audios"})


def check_shape(row: JsonObject) -> None:
    """Raises ExampleError for a row that another trainer or method reads."""
    for is_one, advice in _SHAPES:
        if is_one(row):
            raise ExampleError(f"{UNEXPECTED_FORMAT} It seems that {advice}.")
    if "messages" not in row:
        _check_pair(row)
    check_columns(row)


def _check_pair(row: JsonObject) -> None:
    for prompt, completion in _PAIRS:
        if prompt in row and completion in row and "prompt" not in row:
            raise ExampleError(
                f"{UNEXPECTED_FORMAT} It seems that this is a pair of '{prompt}' and "
                f"'{completion}': rename them to 'prompt' and 'completion', or write 'messages'."
            )
    if isinstance(row.get("prompt"), list) or isinstance(row.get("completion"), list):
        raise ExampleError(
            f"{UNEXPECTED_FORMAT} It seems that 'prompt' and 'completion' are lists of messages: "
            "write them one after the other in 'messages'."
        )


def check_columns(row: JsonObject) -> None:
    """Columns beside the messages that would be missed if they were dropped."""
    for name in _MEDIA_COLUMNS.intersection(row):
        if row[name]:
            raise ExampleError(f"'{name}': {name} are not supported by this model")
    if row.get("system"):
        raise ExampleError("'system' must be written as the first message, with the role system")


def check_message_shape(message: JsonObject) -> None:
    """Raises ExampleError for a message of another trainer's."""
    if "role" not in message and "from" in message:
        raise ExampleError(
            "Discriminator 'role' is missing in value (sharegpt's messages have 'from' and "
            "'value': rename them to 'role' and 'content')"
        )
    if "loss_weight" in message:
        raise ExampleError(
            "has LLaMA-Factory's 'loss_weight': write 'weight', 0 or 1, on assistant messages"
        )


def check_part_shape(part: JsonObject) -> None:
    """Raises ExampleError for a content part of another trainer's."""
    if "value" in part and part.get("type") in ("text", "image_url"):
        raise ExampleError(f"has LLaMA-Factory's 'value': rename it to '{part['type']}'")


def whole_file_advice(first_line: bytes) -> str | None:
    """For a file that does not hold one object a line."""
    start = first_line.strip()
    if start.startswith(b"["):
        return "this looks like one JSON array; write each of its objects on a line of its own"
    if start == b"{":
        return "this looks like objects over several lines; write each on a line of its own"
    return None


def shape_of(value: object) -> JsonObject:
    """A row as an object. Raises ExampleError."""
    if not isinstance(value, dict):
        raise ExampleError(UNEXPECTED_FORMAT)
    return cast(JsonObject, value)
