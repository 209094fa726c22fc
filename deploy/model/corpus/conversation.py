"""Conversations in the training file's own form: one JSON object with `messages` and `tools`."""

from __future__ import annotations

import json
from typing import Any

Example = dict[str, Any]


def exchange(*texts: str, system: str | None = None) -> Example:
    """User and assistant texts in turn, under an optional system prompt."""
    messages: list[dict[str, Any]] = []
    if system is not None:
        messages.append({"role": "system", "content": system})
    for index, text in enumerate(texts):
        messages.append({"role": "assistant" if index % 2 else "user", "content": text})
    return {"messages": messages}


def tool_call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """An assistant message that calls one tool."""
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
    }


def tool_result(result: Any) -> dict[str, Any]:
    return {
        "role": "tool",
        "tool_call_id": "call_0",
        "content": json.dumps(result, ensure_ascii=False),
    }
