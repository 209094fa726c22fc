"""Gemma 4 (and FunctionGemma): `call:name{key:value}` with strings between quote tokens.

Gemma 4's tool and call texts are LLaMA-Factory 0.9.5's: keys of a call sorted, and of a parameter
only description and type shown.
"""

from __future__ import annotations

import json
import re
from typing import Any

from templates.conversation import Tool
from templates.dialects.base import Call, Dialect, Tools, to_json
from templates.dialects.constraints import Format, Layout, Schema
from templates.dialects.literal_grammars import braced_arguments
from templates.dialects.literals import LiteralParser
from templates.dialects.reading import Scan, quoted

_NAME = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")


class Gemma4Parser(LiteralParser):
    def __init__(self, tools: tuple[Tool, ...], begin: str, end: str, quote: str) -> None:
        self.markers = (begin,)
        self._end_mark = end
        self._quote_mark = quote
        super().__init__(tools)

    def _calls(self, marker: str) -> Scan[None]:
        if not (yield from self._take_after_space("call:")):
            return
        name = yield from self._word(_NAME)
        if not name or not (yield from self._starts("{")):
            return
        self._start(name)
        yield from self._object()
        yield from self._close(self._end_mark)

    def _quote(self) -> Scan[str]:
        return self._quote_mark if (yield from self._take(self._quote_mark)) else ""

    def _text(self, quote: str) -> Scan[bool]:
        ended = yield from self._stream_until(quote, emit=self._argue_text)
        return ended is not None

    def _key(self) -> Scan[str | None]:
        if (yield from self._take(self._quote_mark)):
            key = yield from self._until(self._quote_mark)
            return key if key is not None and (yield from self._take(":")) else None
        key = yield from self._until(":")
        return key.strip() if key else None

    def _unknown_word(self, word: str) -> str | None:
        return json.dumps(word)

    def _argue_text(self, text: str) -> None:
        self._argue(quoted(text)[1:-1])


def _value(value: Any, quote: str) -> str:
    match value:
        case str():
            return f"{quote}{value}{quote}"
        case dict():
            return f"{{{_entries(value, quote)}}}"  # pyright: ignore[reportUnknownArgumentType]
        case list():
            return f"[{','.join(_value(entry, quote) for entry in value)}]"  # pyright: ignore[reportUnknownVariableType]
        case _:
            return to_json(value)


def _entries(arguments: dict[str, Any], quote: str) -> str:
    return ",".join(f"{key}:{_value(arguments[key], quote)}" for key in sorted(arguments))


def _dialect(name: str, begin: str, end: str, quote: str) -> Dialect:
    def text(value: str) -> str:
        return f"{quote}{value}{quote}"

    def schema(parameters: dict[str, Any]) -> str:
        parts: list[str] = []
        if properties := parameters.get("properties"):
            shown = ",".join(f"{key}:{{{parameter(sub)}}}" for key, sub in properties.items())
            parts.append(f"properties:{{{shown}}}")
        if required := parameters.get("required"):
            parts.append(f"required:[{','.join(map(text, required))}]")
        if kind := parameters.get("type"):
            parts.append(f"type:{text(str(kind).upper())}")
        return ",".join(parts)

    def parameter(sub: dict[str, Any]) -> str:
        parts: list[str] = []
        if sub.get("description"):
            parts.append(f"description:{text(sub['description'])}")
        if sub.get("type"):
            parts.append(f"type:{text(str(sub['type']).upper())}")
        return ",".join(parts)

    def show(tools: Tools) -> str:
        return "\n".join(map(declare, tools))

    def declare(tool: Tool) -> str:
        shown = f"description:{text(tool.description or '')}"
        if tool.parameters:
            shown += f",parameters:{{{schema(tool.parameters)}}}"
        return f"declaration:{tool.name}{{{shown}}}"

    def write(calls: list[Call]) -> str:
        return "".join(
            f"{begin}call:{call.name}{{{_entries(call.arguments, quote)}}}{end}" for call in calls
        )

    def arguments(name: str, schema: Schema) -> list[Format]:
        return braced_arguments(schema, quote)

    return Dialect(
        name=name,
        show_tools=show,
        write_calls=write,
        read=lambda tools: Gemma4Parser(tools, begin, end, quote),
        layout=Layout(
            lambda name: f"{begin}call:{name}{{",
            f"}}{end}",
            trigger=begin,
            separator="",
            arguments=arguments,
        ),
        keeps_special_tokens=True,
    )


GEMMA4 = _dialect("gemma4", "<|tool_call>", "<tool_call|>", '<|"|>')
FUNCTION_GEMMA = _dialect(
    "function_gemma", "<start_function_call>", "<end_function_call>", "<escape>"
)
