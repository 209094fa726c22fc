"""Input items as they are kept and listed: each with an id, in the API's full shape."""

from __future__ import annotations

from typing import Any

from server.responses.conversation import Item
from server.responses.ids import ItemIds
from server.responses.items import (
    CallItem,
    InputImage,
    Message,
    OutputItem,
    OutputText,
    Reasoning,
)

_ID_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}


def stored_input(own: tuple[Item, ...] | str, ids: ItemIds) -> list[dict[str, Any]]:
    items = (Message(role="user", content=own),) if isinstance(own, str) else own
    shaped: list[dict[str, Any]] = []
    seen: set[str] = set()
    for item in items:
        kept = _shape(item)
        given = getattr(item, "id", None)
        if not isinstance(given, str) or not given or given in seen:
            given = ids.input(_ID_PREFIXES[kept["type"]])
        seen.add(given)
        shaped.append({"id": given, **kept})
    return shaped


def _shape(item: Item) -> dict[str, Any]:
    if isinstance(item, Message):
        return _message(item)
    if isinstance(item, CallItem):
        return {
            "type": "function_call",
            "status": item.status or "completed",
            "call_id": item.call_id,
            "name": item.name,
            "arguments": item.arguments,
        }
    if isinstance(item, OutputItem):
        output = item.output
        return {
            "type": "function_call_output",
            "status": item.status or "completed",
            "call_id": item.call_id,
            "output": output if isinstance(output, str) else [_part(part) for part in output],
        }
    assert isinstance(item, Reasoning), "other items are refused before"
    kept: dict[str, Any] = {
        "type": "reasoning",
        "summary": [part.model_dump() for part in item.summary or ()],
        "content": [part.model_dump() for part in item.content or ()],
        "status": item.status or "completed",
    }
    if item.encrypted_content is not None:
        kept["encrypted_content"] = item.encrypted_content
    return kept


def _message(item: Message) -> dict[str, Any]:
    kind = "output_text" if item.role == "assistant" else "input_text"
    content = item.content
    if isinstance(content, str):
        parts = [{"type": kind, "text": content}]
        if item.role == "assistant":
            parts = [{"type": kind, "text": content, "annotations": [], "logprobs": []}]
    else:
        parts = [_part(part) for part in content]
    return {
        "type": "message",
        "role": item.role,
        "status": item.status or "completed",
        "content": parts,
    }


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, OutputText):
        return {
            "type": "output_text",
            "text": part.text,
            "annotations": part.annotations or [],
            "logprobs": part.logprobs or [],
        }
    kept: dict[str, Any] = part.model_dump(exclude_none=True)
    if isinstance(part, InputImage):
        kept.setdefault("detail", "auto")
    return kept
