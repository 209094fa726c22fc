"""Reads calls whose arguments stand one by one in XML-like marks, and reports them as JSON.

A value is typed by the tool's schema: a plain string streams as it comes; anything else is read
whole, kept as written if it is JSON of a fitting type, and is a string otherwise. Where the schema
says nothing, JSON is JSON and the rest a string.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from templates.conversation import Tool
from templates.dialects.argument_types import STRING, accepted_types, json_literal, property_schema
from templates.dialects.reading import SPACE, Scan, partial_mark, quoted
from templates.dialects.scanning import CallParser

_TEXTS = STRING | {"enum"}
_PLAIN = tuple("{[-0123456789")
"""What JSON begins with that is written as it is."""
_NAME = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")


@dataclass(frozen=True, slots=True)
class XmlSyntax:
    block: str
    """Opens one call or a block of calls."""
    call: str
    """Opens a call inside the block; empty where the block is the call."""
    name_ends: tuple[str, ...]
    key: str
    key_end: str
    value_end: str
    call_end: str
    block_end: str
    value: str = ""
    """Stands between key and value, after white space."""
    padded: bool = False
    """A line break after the opening and before the closing mark is not part of the value."""
    typed_keys: bool = False
    """The key carries `string="true|false"`, which decides the type."""
    max_separator: int = 1


class XmlParser(CallParser):
    def __init__(self, tools: tuple[Tool, ...], syntax: XmlSyntax) -> None:
        self.markers = tuple(mark for mark in (syntax.block, syntax.call) if mark)
        self._syntax = syntax
        self.max_separator = syntax.max_separator
        super().__init__(tools)

    def _calls(self, marker: str) -> Scan[None]:
        syntax = self._syntax
        if not syntax.call:
            yield from self._call()
            return
        inside = marker == syntax.block
        while True:
            if inside:
                yield from self._space()
                if not (yield from self._take(syntax.call)):
                    break
            if not (yield from self._call()):
                return
            inside = True
        if self._mark is None:
            yield from self._close(syntax.block_end)

    def _call(self) -> Scan[bool]:
        """A call after its opening mark; False if it broke or was cut off."""
        syntax = self._syntax
        yield from self._space()
        name = yield from self._word(_NAME)
        if not name or not (yield from self._name_ends(name)):
            return False
        self._start(name)
        schema = self._tools[name].parameters if name in self._tools else None
        count = 0
        while True:
            yield from self._space()
            if not (yield from self._take(syntax.key)):
                break
            if not (yield from self._argument(count, schema or {})):
                return False
            count += 1
        closed = yield from self._close(syntax.call_end or syntax.block_end)
        if closed or not self._ended or not (syntax.call or self._cut):
            self._argue("}" if count else "{}")
        return True

    def _name_ends(self, name: str) -> Scan[bool]:
        """Takes what follows a name; False if the name cannot be one."""
        for end in self._syntax.name_ends:
            if (yield from self._take(end)):
                return True
        if self._syntax.call:
            return False
        yield from self._space()
        if (yield from self._peek()) == "":
            return name in self._tools
        syntax = self._syntax
        return (yield from self._starts(syntax.key)) or (yield from self._starts(syntax.block_end))

    def _argument(self, count: int, schema: dict[str, object]) -> Scan[bool]:
        syntax = self._syntax
        key = yield from self._until(syntax.key_end)
        if key is None:
            return False
        written_as_string: bool | None = None
        if syntax.typed_keys:
            key, _, attribute = key.partition('" string="')
            written_as_string = attribute != "false"
        if syntax.value:
            yield from self._space()
            if not (yield from self._take(syntax.value)):
                return False
        self._argue(("{" if count == 0 else ", ") + json.dumps(key, ensure_ascii=False) + ": ")
        types = accepted_types(property_schema(schema, key), schema)
        if written_as_string or (written_as_string is None and types == STRING):
            return (yield from self._string_value())
        return (yield from self._typed_value(types))

    def _string_value(self) -> Scan[bool]:
        syntax = self._syntax
        self._argue('"')
        if syntax.padded:
            yield from self._take("\n")
            ends = ("\n" + syntax.value_end, syntax.value_end)
        else:
            ends = (syntax.value_end,)
        ended = yield from self._stream_until(*ends, emit=self._argue_text)
        if ended is None:
            return False
        self._argue('"')
        return True

    def _typed_value(self, types: frozenset[str] | None) -> Scan[bool]:
        raw = yield from self._until(self._syntax.value_end, limit=None)
        if raw is None:
            self._argue(self._partial_value(types))
            self._pos = len(self._buf)
            return False
        literal = json_literal(raw.strip(SPACE), types)
        if literal is None:
            if self._syntax.padded:
                raw = raw.removeprefix("\n").removesuffix("\n")
            literal = json.dumps(raw, ensure_ascii=False)
        self._argue(literal)
        return True

    def _partial_value(self, types: frozenset[str] | None) -> str:
        """JSON for a value that the output ends in; nothing where it was cut and may yet become
        another one."""
        end = len(self._buf)
        if self._cut:
            end = partial_mark(self._buf, self._pos, (self._syntax.value_end,))
        rest = self._buf[self._pos : end].strip(SPACE)
        is_text = not types or "string" in types
        if self._cut and not (types and types <= _TEXTS if is_text else rest[:1] in _PLAIN):
            return ""
        return quoted(rest)[:-1] if is_text else rest

    def _argue_text(self, text: str) -> None:
        self._argue(quoted(text)[1:-1])
