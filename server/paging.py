"""Pages of lists, as OpenAI's API shows them."""

from __future__ import annotations

from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel

from server.errors import InvalidRequest
from server.store.cursors import UnknownCursorError
from server.wire import ResponseBody

ItemT = TypeVar("ItemT", bound=BaseModel)
"""With an `id`."""


class Listing(ResponseBody, Generic[ItemT]):
    object: Literal["list"] = "list"
    data: list[ItemT]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, data: list[ItemT], *, has_more: bool) -> Self:
        items: list[Any] = [*data]
        first_id, last_id = (items[0].id, items[-1].id) if items else (None, None)
        return cls(object="list", data=data, first_id=first_id, last_id=last_id, has_more=has_more)


def no_such_cursor(error: UnknownCursorError) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid 'after': there is no '{error.after}' in this list.",
        param="after",
        code="invalid_value",
    )
