"""A chat completion as server-sent events that is kept too."""

from __future__ import annotations

from server.chat.fold import ChatFold
from server.chat.keeping import Place
from server.chat.stream import ChatStream
from server.errors import ApiError
from server.generation.output import Continuation
from server.usage import Tally
from workers.contract.messages import Finished, PromptScored, Token


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
