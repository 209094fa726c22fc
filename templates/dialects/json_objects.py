"""Reads calls that are JSON objects with a name and arguments, between marks or bare."""

from __future__ import annotations

from templates.dialects.base import Call, to_json
from templates.dialects.call_lists import ListParser
from templates.dialects.reading import NAME_LIMIT, Scan, begins_any, unwrap_object

_NAME_KEYS = ("name", "tool_name")
_ARGUMENT_KEYS = ("arguments", "parameters")
_ID_KEYS = ("id", "tool_call_id")


def named_object(call: Call, arguments_key: str = "arguments") -> str:
    return to_json({"name": call.name, arguments_key: call.arguments})


class ObjectParser(ListParser):
    """Keys may come in any order; an id is reported if it stands before the arguments, which are
    not kept waiting for it."""

    bare_starts = ("{", "[")

    def _begins_call(self, char: str) -> bool:
        return char == "{"

    def _begins_bare(self, held: str) -> bool:
        written = "".join(held.split())
        names = [f'"{key}":"{name}"' for key in _NAME_KEYS for name in self._tools]
        return any(name in written for name in names) or begins_any(
            written, (begin + name for begin in ("{", "[{") for name in names)
        )

    def _call(self) -> Scan[bool]:
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
