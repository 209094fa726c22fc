"""How much structure a large body may hold.

JSON is read in one go, which nothing else on the event loop can interrupt, and a value takes much
more memory than its text: `[1,1,1]` is sixteen times as large once read. So the values of a large
body are counted first, a piece at a time; what the text of its strings holds does not count.
"""

from __future__ import annotations

import asyncio

from server.errors import InvalidRequest

MAX_VALUES = 500_000
"""Items of arrays and members of objects, all together."""
MAX_NAMES = 50_000
"""Members of objects, all together."""
MAX_CONTAINERS = 50_000
"""Arrays and objects, all together."""
LARGE_BODY_BYTES = 2 * MAX_CONTAINERS
"""A smaller body cannot hold as many."""
_PIECE_BYTES = 128 * 1024
_LIMITS = (
    ((b",",), MAX_VALUES, "values"),
    ((b":",), MAX_NAMES, "members of objects"),
    ((b"[", b"{"), MAX_CONTAINERS, "arrays and objects"),
)


async def check_size(body: bytes) -> None:
    """Raises InvalidRequest."""
    if _first_exceeded(_count(body)) is None:
        return
    totals = [0] * len(_LIMITS)
    in_string = ends_in_escape = False
    for start in range(0, len(body), _PIECE_BYTES):
        piece = body[start : start + _PIECE_BYTES]
        if ends_in_escape:
            piece = b"_" + piece[1:]
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        ends_in_escape = piece.endswith(b"\\")
        stretches = piece.split(b'"')
        outside = b"".join(stretches[in_string::2])
        in_string ^= len(stretches) % 2 == 0
        totals = [total + more for total, more in zip(totals, _count(outside), strict=True)]
        exceeded = _first_exceeded(totals)
        if exceeded is not None:
            _, limit, what = _LIMITS[exceeded]
            raise InvalidRequest(
                f"The body of your request holds too many {what}: at most {limit} are allowed.",
                code="request_too_large",
            )
        await asyncio.sleep(0)


def _count(text: bytes) -> list[int]:
    return [sum(map(text.count, marks)) for marks, _, _ in _LIMITS]


def _first_exceeded(totals: list[int]) -> int | None:
    over = (index for index, (_, limit, _) in enumerate(_LIMITS) if totals[index] > limit)
    return next(over, None)
