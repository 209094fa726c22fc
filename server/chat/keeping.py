"""Keeping a chat completion (`store`) with the messages it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.errors import InvalidRequest
from server.generation.answers import AnswerId
from server.keeping import MAX_STORED_BYTES, Keeper, WhenKept
from server.store.stored_completions import StoredCompletion


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


def too_large() -> InvalidRequest:
    return InvalidRequest(
        f"The completion and its messages are larger than the {MAX_STORED_BYTES} bytes that are "
        "kept of one. Please set 'store' to false.",
        param="store",
        code="completion_too_large",
    )
