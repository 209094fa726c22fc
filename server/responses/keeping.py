"""Where a response under way is kept, with its own input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.errors import InvalidRequest
from server.keeping import MAX_STORED_BYTES, Keeper, WhenKept
from server.store.responses import StoredResponse


@dataclass(frozen=True, slots=True)
class Place:
    """Where a response under way will be kept."""

    keeper: Keeper[StoredResponse]
    project_id: str
    previous: StoredResponse | None
    input: bytes
    """Its own input items, as JSON."""
    is_asked: bool
    """By the request itself, which then fails with it. Else it only says so in its answer."""

    def keep(self, response: Mapping[str, Any], body: bytes, when_kept: WhenKept) -> None:
        """`body` is the response as JSON."""
        num_bytes = len(body) + len(self.input)
        if num_bytes > MAX_STORED_BYTES:
            when_kept(too_large())
            return
        self.keeper.keep(self.row(response, body), num_bytes, when_kept)

    def row(self, response: Mapping[str, Any], body: bytes) -> StoredResponse:
        num_bytes = len(body) + len(self.input)
        previous = self.previous
        return StoredResponse(
            id=response["id"],
            project_id=self.project_id,
            created_at=response["created_at"],
            expires_at=response["created_at"] + self.keeper.lifetime_s,
            previous_id=None if previous is None else previous.id,
            model=response["model"],
            status=response["status"],
            body=body.decode(),
            input=self.input.decode(),
            depth=0 if previous is None else previous.depth + 1,
            context_bytes=num_bytes + (0 if previous is None else previous.context_bytes),
        )


def too_large() -> InvalidRequest:
    return InvalidRequest(
        f"The response and its input are larger than the {MAX_STORED_BYTES} bytes that are kept "
        "of one. Please set 'store' to false.",
        param="store",
        code="response_too_large",
    )
