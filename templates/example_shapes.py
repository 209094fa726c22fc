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
        "this is a sharegpt row in a file of others",
    ),
    (
        lambda row: "instruction" in row and "output" in row,
        "this is an alpaca row in a file of others",
    ),
    (
        lambda row: "custom_id" in row and "body" in row,
        "this is a line of a batch file, not an example",
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
                f"'{completion}': rename them to 'prompt' and 'completion', or name them with the "
                "job's 'dataset'."
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


def own_message(message: JsonObject) -> JsonObject:
    """A message with the names of OpenAI's, where it has those of another trainer. Raises
    ExampleError."""
    if "role" not in message and "from" in message:
        raise ExampleError(
            "Discriminator 'role' is missing in value (sharegpt's messages have 'from' and "
            "'value': rename them to 'role' and 'content')"
        )
    if "loss_weight" not in message:
        return message
    kept = {key: value for key, value in message.items() if key != "loss_weight"}
    weight = message["loss_weight"]
    if isinstance(weight, bool) or weight not in (0, 1):
        raise ExampleError("'loss_weight' must be 0 or 1")
    if message.get("role") == "assistant":
        return {"weight": int(weight), **kept}
    if weight:
        raise ExampleError("'loss_weight' must be 0: answers alone are learned (train_on_prompt)")
    return kept


def own_part(part: JsonObject) -> JsonObject:
    """As `own_message`, of a content part."""
    match part:
        case {"type": "text", "value": text, **rest}:
            return {**rest, "type": "text", "text": text}
        case {"type": "image_url", "value": url, **rest}:
            return {**rest, "type": "image_url", "image_url": {"url": url}}
        case _:
            return part


def whole_file_advice(first_line: bytes) -> str | None:
    """For a file that does not hold one object a line."""
    start = first_line.strip()
    if start.startswith(b"["):
        return "this looks like one JSON array; name it .json, or write each object on its own line"
    if start == b"{":
        return "this looks like objects over several lines; write each on a line of its own"
    return None


def shape_of(value: object) -> JsonObject:
    """A row as an object. Raises ExampleError."""
    if not isinstance(value, dict):
        raise ExampleError(UNEXPECTED_FORMAT)
    return cast(JsonObject, value)
