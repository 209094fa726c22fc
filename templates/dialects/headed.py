"""Dialects that write a call's name in a header and its arguments as JSON after it: DeepSeek V3, R1
and V3.1, Kimi K2.

Their tools are shown by their own templates; the texts here are what those say of tools.
"""

from __future__ import annotations

import re

from templates.dialects.base import Call, Dialect, Tools, to_json, wrapped_list
from templates.dialects.constraints import Format, Layout, Schema, json_arguments
from templates.dialects.reading import Scan
from templates.dialects.scanning import CallParser

_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_SEP = "<｜tool▁sep｜>"
_NAME = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")


class DeepSeekParser(CallParser):
    """Both forms: `function<sep>name`, fenced JSON (V3, R1), and `name<sep>` JSON (V3.1)."""

    markers = (_CALLS, _CALL)

    def _calls(self, marker: str) -> Scan[None]:
        inside = marker == _CALL
        while True:
            if not inside and not (yield from self._take_after_space(_CALL)):
                break
            inside = False
            if not (yield from self._call()):
                break
            yield from self._close(_CALL_END)
            yield from self._space()
            if not (yield from self._starts(_CALL)):
                break
            self._hold()
        if self._mark is None:
            yield from self._close(_CALLS_END)

    def _call(self) -> Scan[bool]:
        header = yield from self._until(_SEP)
        if header is None:
            return False
        yield from self._space()
        name = header.strip()
        if (yield from self._peek()) != "{":
            name = yield from self._word(_NAME)
            yield from self._space()
            if (yield from self._take("```json")) or (yield from self._take("```")):
                yield from self._space()
        if not _NAME.fullmatch(name) or not (yield from self._arguments(name)):
            return False
        yield from self._take_after_space("```")
        return True


def _v3_call(call: Call) -> str:
    return f"{_CALL}function{_SEP}{call.name}\n```json\n{to_json(call.arguments)}\n```{_CALL_END}"


def _v31_call(call: Call) -> str:
    return f"{_CALL}{call.name}{_SEP}{to_json(call.arguments)}{_CALL_END}"


def _v31_tools(tools: Tools) -> str:
    shown = "".join(
        f"\n### {tool.name}\nDescription: {tool.description or ''}\n\n"
        f"Parameters: {to_json(tool.parameters or {})}\n"
        for tool in tools
    )
    return (
        f"\n\n## Tools\nYou have access to the following tools:\n{shown}\n"
        "IMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
        f"{_CALLS}{_CALL}tool_call_name{_SEP}tool_call_arguments{_CALL_END}"
        f"{{additional_tool_calls}}{_CALLS_END}\n\nWhere:\n"
        "- `tool_call_name` must be an exact match to one of the available tools\n"
        "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters "
        "Schema\n- For multiple tool calls, chain them directly without separators or spaces\n"
    )


DEEPSEEK_V3 = Dialect(
    name="deepseek_v3",
    show_tools=wrapped_list,
    write_calls=lambda calls: _CALLS + "\n".join(map(_v3_call, calls)) + _CALLS_END,
    read=DeepSeekParser,
    layout=Layout(
        lambda name: f"{_CALL}function{_SEP}{name}\n```json\n",
        f"\n```{_CALL_END}",
        trigger=_CALLS,
        opening=_CALLS,
        separator="\n",
        closing=_CALLS_END,
    ),
    keeps_special_tokens=True,
)
DEEPSEEK_V3_1 = Dialect(
    name="deepseek_v3_1",
    show_tools=_v31_tools,
    write_calls=lambda calls: _CALLS + "".join(map(_v31_call, calls)) + _CALLS_END,
    read=DeepSeekParser,
    layout=Layout(
        lambda name: f"{_CALL}{name}{_SEP}",
        _CALL_END,
        trigger=_CALLS,
        opening=_CALLS,
        separator="",
        closing=_CALLS_END,
    ),
    keeps_special_tokens=True,
)

_SECTION, _SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_KIMI_CALL, _KIMI_END = "<|tool_call_begin|>", "<|tool_call_end|>"
_KIMI_ARGUMENTS = "<|tool_call_argument_begin|>"
_KIMI_ID = re.compile(r"(?:functions\.)?([A-Za-z0-9_.\-]{1,128}?)(?::(\d+))?")


class KimiParser(CallParser):
    """A call's header is its id, `functions.<name>:<number>`."""

    markers = (_SECTION, _KIMI_CALL, "<|tool_call_section_begin|>")
    """The last one is how the model sometimes misspells the first."""

    def _calls(self, marker: str) -> Scan[None]:
        inside = marker == _KIMI_CALL
        while True:
            if not inside and not (yield from self._take_after_space(_KIMI_CALL)):
                break
            inside = False
            header = yield from self._until(_KIMI_ARGUMENTS)
            found = _KIMI_ID.fullmatch(header.strip()) if header is not None else None
            if header is None or found is None:
                break
            yield from self._space()
            if not (yield from self._arguments(found[1], header.strip())):
                break
            yield from self._close(_KIMI_END)
            yield from self._space()
            if not (yield from self._starts(_KIMI_CALL)):
                break
            self._hold()
        if self._mark is None and not (yield from self._close(_SECTION_END)):
            yield from self._close("<|tool_call_section_end|>")


def _kimi_calls(calls: list[Call]) -> str:
    written = "".join(
        f"{_KIMI_CALL}{_kimi_id(call, n)}{_KIMI_ARGUMENTS}{to_json(call.arguments)}{_KIMI_END}"
        for n, call in enumerate(calls)
    )
    return _SECTION + written + _SECTION_END


def _kimi_id(call: Call, number: int) -> str:
    """The call's own id where it is of Kimi's form, which the model was trained on."""
    if call.id and call.id.startswith(f"functions.{call.name}:"):
        return call.id
    return f"functions.{call.name}:{number}"


def _kimi_arguments(name: str, schema: Schema) -> list[Format]:
    return [
        {"type": "regex", "pattern": "[0-9]{1,4}"},
        {"type": "const_string", "value": _KIMI_ARGUMENTS},
        *json_arguments(name, schema),
    ]


KIMI_K2 = Dialect(
    name="kimi_k2",
    show_tools=wrapped_list,
    write_calls=_kimi_calls,
    read=KimiParser,
    layout=Layout(
        lambda name: f"{_KIMI_CALL}functions.{name}:",
        _KIMI_END,
        trigger=_SECTION,
        opening=_SECTION,
        separator="",
        closing=_SECTION_END,
        arguments=_kimi_arguments,
    ),
    keeps_special_tokens=True,
)
