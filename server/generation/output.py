"""What an exchange is told of a request, and what it tells of the answer.

An answer as a stream, as one body, in the store or in a file is an `Output` each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from server.engines.client import Work
from server.errors import ApiError
from server.usage import Tally
from workers.contract.messages import Finished, FinishReason, PromptScored, Token


class Continuation(msgspec.Struct, frozen=True):
    """What takes a sequence's place, on the same engine."""

    work: Work | None
    """None: nothing is left to generate, the answer ends for `reason`."""
    added_tokens: int
    """Output that the work's prompt holds and no engine generated."""
    reason: FinishReason = FinishReason.LENGTH


class Output(Protocol):
    """Turns the events of an exchange's sequences into a response."""

    @property
    def is_kept(self) -> bool:
        """Whether nothing is sent before the answer is whole."""
        ...

    def begin(self) -> None:
        """Every sequence is admitted."""
        ...

    def scored(self, index: int, event: PromptScored) -> None: ...

    def token(self, index: int, event: Token) -> Continuation | None:
        """What the sequence goes on with in its own stead; mostly nothing."""
        ...

    def finished(self, index: int, event: Finished) -> None: ...

    def end(self, tally: Tally) -> None:
        """Every sequence has finished."""
        ...

    def fail(self, error: ApiError) -> None:
        """Nothing follows."""
        ...


class Route(Protocol):
    """Where an exchange's sequences run."""

    @property
    def engine_model(self) -> str: ...
    @property
    def base_model(self) -> str:
        """The configured model, whose limits hold."""
        ...

    @property
    def affinity(self) -> str | None: ...


ErrorNamer = Callable[[ApiError], ApiError]
"""Puts the request's own parameter names on an engine's error."""
