"""Finds the dialect of a template by behaviour: whose parser reads back a call that it rendered."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from templates.conversation import Tool, ToolCall
from templates.dialects.base import Dialect
from templates.format import ContentDelta, FormatError, ToolArgumentsDelta, ToolCallStart


def detect(
    dialects: Iterable[Dialect], rendered: str, name: str, arguments: dict[str, Any]
) -> Dialect | None:
    """The dialect that reads one call of `name` with `arguments` in `rendered` and leaves least of
    it as content; among equals, one that writes the call as it stands there."""
    best: Dialect | None = None
    best_rank: tuple[int, bool] | None = None
    for entry in dialects:
        left = _left_over(entry, rendered, name, arguments)
        if left is None:
            continue
        rank = (left, not _writes(entry, rendered, name, arguments))
        if best_rank is None or rank < best_rank:
            best, best_rank = entry, rank
    return best


def _left_over(entry: Dialect, rendered: str, name: str, arguments: dict[str, Any]) -> int | None:
    """How many characters, but for white space, are content to the dialect; None when it does not
    read the call."""
    schema = {"type": "object", "properties": {key: {} for key in arguments}}
    parser = entry.parser((Tool(name, None, schema),))
    deltas = [*parser.feed(rendered), *parser.finish()]
    names = [delta.name for delta in deltas if isinstance(delta, ToolCallStart)]
    text = "".join(delta.text for delta in deltas if isinstance(delta, ToolArgumentsDelta))
    try:
        read = names == [name] and json.loads(text) == arguments
    except ValueError:
        return None
    content = "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))
    return len(_squeezed(content)) if read else None


def _writes(entry: Dialect, rendered: str, name: str, arguments: dict[str, Any]) -> bool:
    call = ToolCall(name, json.dumps(arguments))
    try:
        written = entry.native_text((call,))
    except FormatError:
        return False
    return _squeezed(written) in _squeezed(rendered)


def _squeezed(text: str) -> str:
    return "".join(text.split())
