"""The default dialect, for models not trained on one: ReAct's `Action:` and `Action Input:`.

Tool text is LLaMA-Factory 0.9.5's.
"""

from __future__ import annotations

import re
from typing import Any

from templates.conversation import Tool
from templates.dialects.base import Call, Dialect, Tools, to_json
from templates.dialects.constraints import Layout
from templates.dialects.reading import Scan
from templates.dialects.scanning import CallParser

_ACTION, _INPUT = "Action:", "Action Input:"
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}")
_HEADER = """You have access to the following tools:
"""
_FOOTER = """Use the following format if using a tool:
```
Action: tool name (one of [{names}])
Action Input: the input to the tool, in a JSON format representing the kwargs \
(e.g. ```{{"input": "hello world", "num_beams": 5}}```)
```
"""


class ReactParser(CallParser):
    markers = (_ACTION,)

    def _calls(self, marker: str) -> Scan[None]:
        yield from self._space()
        name = yield from self._word(_NAME)
        if not name:
            return
        if not (yield from self._take_after_space(_INPUT)):
            return
        yield from self._space()
        fenced = (yield from self._take("```json")) or (yield from self._take("```"))
        yield from self._space()
        if (yield from self._arguments(name)) and fenced:
            yield from self._take_after_space("```")


def _show(tools: Tools) -> str:
    shown = "".join(_tool_text(tool) for tool in tools)
    return _HEADER + shown + _FOOTER.format(names=", ".join(tool.name for tool in tools))


def _write(calls: list[Call]) -> str:
    return "\n".join(
        f"Action: {call.name}\nAction Input: {to_json(call.arguments)}" for call in calls
    )


def _tool_text(tool: Tool) -> str:
    parameters = tool.parameters or {}
    required: list[str] = parameters.get("required", [])
    properties: dict[str, dict[str, Any]] = parameters.get("properties", {})
    shown = "".join(
        _parameter(name, schema, name in required) for name, schema in properties.items()
    )
    return (
        f"> Tool Name: {tool.name}\nTool Description: {tool.description or ''}\n"
        f"Tool Args:\n{shown}\n"
    )


def _parameter(name: str, schema: dict[str, Any], required: bool) -> str:
    mark = ", required" if required else ""
    text = f"  - {name} ({schema.get('type', '')}{mark}): {schema.get('description', '')}"
    if values := schema.get("enum"):
        text += f", should be one of [{', '.join(str(value) for value in values)}]"
    if items := schema.get("items"):
        text += f", where each item should be {items.get('type', '')}"
    return text + "\n"


DEFAULT = Dialect(
    name="default",
    show_tools=_show,
    write_calls=_write,
    read=ReactParser,
    layout=Layout(lambda name: f"Action: {name}\nAction Input: ", "", trigger=_ACTION),
)
