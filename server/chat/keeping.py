"""Keeping a chat completion (`store`) with the messages it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.errors import ApiError, InvalidRequest
from server.generation.answers import AnswerId
from server.generation.output import Continuation
from server.responses.keeping import MAX_STORED_BYTES, Keeper, WhenKept
from server.store.stored_completions import StoredCompletion
from server.usage import Tally
from workers.contract.messages import Finished, PromptScored, Token

if TYPE_CHECKING:
    from server.chat.fold import ChatFold
    from server.chat.stream import ChatStream


@dataclass(frozen=True, slots=True)
class Place:
    """Where a completion under way will be kept."""

    keeper: Keeper[StoredCompletion]
    project_id: str
    metadata: Mapping[str, str] | None
    messages: bytes
    """What is answered, as JSON."""

    def keep(self, answer: AnswerId, body: bytes, when_kept: WhenKept) -> None:
        """`body` is the completion as JSON."""
        num_bytes = len(body) + len(self.messages)
        if num_bytes > MAX_STORED_BYTES:
            when_kept(too_large())
            return
        row = StoredCompletion(
            id=answer.id,
            project_id=self.project_id,
            created_at=answer.created,
            expires_at=answer.created + self.keeper.lifetime_s,
            model=answer.model,
            metadata=self.metadata,
            body=body.decode(),
            messages=self.messages.decode(),
        )
        self.keeper.keep(row, num_bytes, when_kept)


class KeptChatStream:
    """An exchange's `Output`: a stream beside a fold of the same events, which is kept before the
    stream's last records are sent."""

    is_kept = False

    def __init__(self, stream: ChatStream, fold: ChatFold, place: Place) -> None:
        self._stream = stream
        self._fold = fold
        self._place = place

    def begin(self) -> None:
        self._stream.begin()

    def scored(self, index: int, event: PromptScored) -> None:
        self._stream.scored(index, event)

    def token(self, index: int, event: Token) -> Continuation | None:
        self._fold.token(index, event)
        return self._stream.token(index, event)

    def finished(self, index: int, event: Finished) -> None:
        self._fold.finished(index, event)
        self._stream.finished(index, event)

    def end(self, tally: Tally) -> None:
        def close(error: ApiError | None) -> None:
            if error is None:
                self._stream.end(tally)
            else:
                self._stream.fail(error)

        for (index, number), call_id in self._stream.call_ids.items():
            self._fold.answers[index].calls[number].id = call_id
        self._place.keep(self._fold.answer_id, self._fold.body(tally), close)

    def fail(self, error: ApiError) -> None:
        self._stream.fail(error)


def too_large() -> InvalidRequest:
    return InvalidRequest(
        f"The completion and its messages are larger than the {MAX_STORED_BYTES} bytes that are "
        "kept of one. Please set 'store' to false.",
        param="store",
        code="completion_too_large",
    )
