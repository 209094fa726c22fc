"""Reads blocks of calls between marks, or bare: one, a list of them, or several in a row."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from templates.conversation import Tool
from templates.dialects.reading import Scan
from templates.dialects.scanning import CallParser


@dataclass(frozen=True, slots=True)
class ListSyntax:
    begins: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    bare: bool = False
    """Calls to known tools may open the output without a mark."""


class ListParser(CallParser):
    """The list and its marks; subclasses read a call."""

    bare_starts: tuple[str, ...] = ("[",)
    """What calls that stand without a mark begin with."""

    def __init__(self, tools: tuple[Tool, ...], syntax: ListSyntax) -> None:
        self.markers = syntax.begins
        self._syntax = syntax
        self._bare = False
        super().__init__(tools)

    @abstractmethod
    def _begins_call(self, char: str) -> bool:
        """Whether a call may begin with this character; "" is the output's end."""

    @abstractmethod
    def _call(self) -> Scan[bool]:
        """Reads one call; False if it broke."""

    def _opening(self) -> Scan[None]:
        if not self._syntax.bare:
            return
        yield from self._space()
        if (yield from self._peek()) in self.bare_starts:
            self._bare = True
            yield from self._block()
            self._bare = False

    def _calls(self, marker: str) -> Scan[None]:
        for further in self.markers:
            if further != marker:
                yield from self._take_after_space(further)
        yield from self._block()

    def _block(self) -> Scan[None]:
        """The calls of one block and its closing mark."""
        yield from self._space()
        listed = yield from self._take("[")
        while True:
            yield from self._space()
            if not self._begins_call((yield from self._peek())):
                break
            if self._mark is None:
                self._hold()
            if not (yield from self._call()):
                break
            yield from self._space()
            if (yield from self._peek()) in (",", ";"):
                self._pos += 1
        if self._mark is not None:
            return
        if listed:
            yield from self._close("]")
        for end in self._syntax.ends:
            if (yield from self._close(end)):
                return
