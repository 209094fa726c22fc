"""Who asks a generating endpoint: a connection's `Reply`, or someone without a connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from server.errors import ApiError
from server.gate import Call, Header


class Caller(Protocol):
    """Someone who waits for an answer. All of it may be called from an engine's callback."""

    @property
    def call(self) -> Call:
        """The facts of the request, for logs and limits."""
        ...

    @property
    def over(self) -> bool:
        """Nobody waits any more: answered, refused or gone."""
        ...

    def when_over(self, callback: Callable[[], None]) -> None:
        """Calls it once; at once, if it is over already."""
        ...

    def show_life(self) -> None:
        """Says that the answer is still to come."""
        ...

    def refuse(self, error: ApiError) -> None:
        """The error is the answer, or the end of one that has begun."""
        ...


class Recipient(Caller, Protocol):
    """A caller who takes an answer as a whole."""

    def answer(self, status: int, body: bytes, headers: Sequence[Header] = ()) -> None:
        """The answer's JSON."""
        ...
