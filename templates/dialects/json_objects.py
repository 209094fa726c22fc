"""Reads calls that are JSON objects with a name and arguments, between marks or bare."""

from __future__ import annotations

from dataclasses import dataclass

from templates.conversation import Tool
from templates.dialects.base import Call, to_json
from templates.dialects.reading import NAME_LIMIT, Scan, unwrap_object
from templates.dialects.scanning import CallParser

_NAME_KEYS = ("name", "tool_name")
_ARGUMENT_KEYS = ("arguments", "parameters")
_ID_KEYS = ("id", "tool_call_id")


@dataclass(frozen=True, slots=True)
class ObjectSyntax:
    begins: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    bare: bool = False
    """Calls may stand at the start of the output without a mark."""


def named_object(call: Call, arguments_key: str = "arguments") -> str:
    return to_json({"name": call.name, arguments_key: call.arguments})


class ObjectParser(CallParser):
    """One object, a list of them, or several one after another. Keys may come in any order; an id
    is reported if it stands before the arguments, which are not kept waiting for it."""

    def __init__(self, tools: tuple[Tool, ...], syntax: ObjectSyntax) -> None:
        self.markers = syntax.begins
        self._syntax = syntax
        self._bare = False
        super().__init__(tools)

    def _opening(self) -> Scan[None]:
        if not self._syntax.bare:
            return
        yield from self._space()
        if (yield from self._peek()) in ("{", "["):
            self._bare = True
            yield from self._objects()
            self._bare = False

    def _calls(self, marker: str) -> Scan[None]:
        yield from self._objects()

    def _objects(self) -> Scan[None]:
        """The objects of one block and its closing mark."""
        yield from self._space()
        listed = yield from self._take("[")
        while True:
            yield from self._space()
            if (yield from self._peek()) != "{":
                break
            if self._mark is None:
                self._hold()
            if not (yield from self._object()):
                break
            yield from self._space()
            if (yield from self._peek()) in (",", ";"):
                self._pos += 1
        if self._mark is not None:
            return
        if listed:
            yield from self._take("]")
        for end in self._syntax.ends:
            if (yield from self._close(end)):
                return

    def _object(self) -> Scan[bool]:
        """One call; False if it broke."""
        name: str | None = None
        call_id: str | None = None
        early: str | None = None
        self._pos += 1
        while True:
            yield from self._space()
            char = yield from self._peek()
            if char == "}":
                self._pos += 1
                return self._mark is None or self._report(name, call_id, early)
            key = yield from self._string()
            if key is None or not (yield from self._take_after_space(":")):
                return False
            yield from self._space()
            if self._mark is not None and key in _ARGUMENT_KEYS and name is not None:
                if not (yield from self._arguments(name, call_id)):
                    return False
            elif key in _NAME_KEYS and name is None:
                name = yield from self._string()
                if not name or not self._may_call(name):
                    return False
            elif key in _ID_KEYS and (yield from self._peek()) == '"':
                call_id = yield from self._string()
                if call_id is None:
                    return False
            else:
                value = yield from self._value()
                if value is None:
                    return False
                if key in _ARGUMENT_KEYS and early is None:
                    early = value
            yield from self._space()
            if (yield from self._peek()) == ",":
                self._pos += 1

    def _may_call(self, name: str) -> bool:
        return len(name) <= NAME_LIMIT and (not self._bare or name in self._tools)

    def _report(self, name: str | None, call_id: str | None, early: str | None) -> bool:
        """Reports a call whose arguments came before its name, or not at all."""
        if name is None:
            return False
        arguments = "{}" if early in (None, "null") else unwrap_object(early or "")
        if arguments is None:
            return False
        self._start(name, call_id)
        self._argue(arguments)
        return True
