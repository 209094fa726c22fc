"""Pages of lists, as OpenAI's API shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel

from server.errors import InvalidRequest, invalid_value
from server.store.cursors import UnknownCursorError
from server.wire import ResponseBody

ItemT = TypeVar("ItemT", bound=BaseModel)
"""With an `id`."""
AnyT = TypeVar("AnyT")


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


def cut(
    items: Sequence[AnyT], id_of: Callable[[AnyT], str], *, after: str | None, limit: int
) -> tuple[Sequence[AnyT], bool]:
    """At most `limit` items of a whole list beyond `after`, and whether more follow. Raises
    InvalidRequest."""
    begin = 0
    if after is not None:
        begin = next((n + 1 for n, item in enumerate(items) if id_of(item) == after), -1)
        if begin < 0:
            raise invalid_value("after", f"There is no '{after[:128]}' in this list.")
    return items[begin : begin + limit], begin + limit < len(items)


def no_such_cursor(error: UnknownCursorError) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid 'after': there is no '{error.after}' in this list.",
        param="after",
        code="invalid_value",
    )
