"""Usage and costs as pages of time buckets, in OpenAI's shapes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Query

from server.errors import invalid_value
from server.store.usage import UsageSum
from server.wire import ResponseBody

ResultT = TypeVar("ResultT", bound=ResponseBody)
MAX_IDS = 100
Seconds = Annotated[int, Query(ge=0, le=2**40)]
PageToken = Annotated[str | None, Query(max_length=64)]
_TOKEN = "page_"


@dataclass(frozen=True, slots=True)
class Width:
    """A bucket's, with how many are shown unless the caller says, and at most."""

    seconds: int
    default: int
    most: int


class Bucket(ResponseBody, Generic[ResultT]):
    object: Literal["bucket"] = "bucket"
    start_time: int
    end_time: int
    results: list[ResultT]


class BucketPage(ResponseBody, Generic[ResultT]):
    object: Literal["page"] = "page"
    data: list[Bucket[ResultT]]
    has_more: bool
    next_page: str | None


@dataclass(frozen=True, slots=True)
class Window:
    """The buckets of one page: from `start` up to `end`, of all up to `last`."""

    start: int
    end: int
    last: int
    width_s: int


def window_of(
    width: Width, start_time: int, end_time: int | None, limit: int | None, page: str | None
) -> Window:
    """Buckets begin at multiples of their width (days in UTC). Raises InvalidRequest."""
    if limit is not None and not 1 <= limit <= width.most:
        raise invalid_value("limit", f"It must be from 1 to {width.most} for buckets this wide.")
    end_time = int(time.time()) + 1 if end_time is None else end_time
    if end_time <= start_time:
        raise invalid_value("end_time", "It must be after 'start_time'.")
    seconds = width.seconds
    first = start_time - start_time % seconds
    last = -(-end_time // seconds) * seconds
    start = first if page is None else _read_token(page)
    if start % seconds or not first <= start < last:
        raise invalid_value("page", "It is not the 'next_page' of this query.")
    return Window(start, min(last, start + (limit or width.default) * seconds), last, seconds)


def paged(
    window: Window,
    sums: Sequence[UsageSum],
    end: int,
    results: Callable[[Sequence[UsageSum]], list[ResultT]],
) -> BucketPage[ResultT]:
    """`sums` are those of the window up to `end`, ordered by bucket; `results` makes those of one
    bucket."""
    by_start = {
        start: results(list(group)) for start, group in groupby(sums, key=lambda s: s.start)
    }
    data = [
        Bucket[ResultT](
            start_time=start, end_time=start + window.width_s, results=by_start.get(start, [])
        )
        for start in range(window.start, end, window.width_s)
    ]
    has_more = end < window.last
    return BucketPage[ResultT](
        data=data, has_more=has_more, next_page=f"{_TOKEN}{end}" if has_more else None
    )


def _read_token(token: str) -> int:
    """Raises InvalidRequest."""
    number = token.removeprefix(_TOKEN)
    if not token.startswith(_TOKEN) or not (number.isascii() and number.isdigit()):
        raise invalid_value("page", "It is not the 'next_page' of this query.")
    return int(number)
