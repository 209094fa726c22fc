"""Ids of responses and of their items: an item's id tells which response it belongs to."""

from __future__ import annotations

import random
import re

_PREFIX = "resp_"
_KEY_CHARS = 32
_NUMBER_CHARS = 4
_FIRST_INPUT = 0x8000
_ITEM = re.compile(rf"[a-z]+_([0-9a-f]{{{_KEY_CHARS}}})[0-9a-f]{{{_NUMBER_CHARS},5}}")


class ItemIds:
    """Gives out the ids of one response and its items."""

    def __init__(self) -> None:
        self._key = f"{random.getrandbits(4 * _KEY_CHARS):0{_KEY_CHARS}x}"
        self.response_id = _PREFIX + self._key
        self._num_outputs = 0
        self._num_inputs = 0

    def output(self, kind: str) -> str:
        self._num_outputs += 1
        return self._make(kind, self._num_outputs - 1)

    def input(self, kind: str) -> str:
        self._num_inputs += 1
        return self._make(kind, _FIRST_INPUT + self._num_inputs - 1)

    def _make(self, kind: str, number: int) -> str:
        return f"{kind}_{self._key}{number:0{_NUMBER_CHARS}x}"


def response_of(item_id: str) -> str | None:
    """The response that the item with this id belongs to; None for an id that is not ours."""
    match = _ITEM.fullmatch(item_id)
    return None if match is None else _PREFIX + match[1]
