"""How long a connection may keep the gateway waiting, told with times of our own."""

from __future__ import annotations

from typing import Any

import pytest

from server.config import Limits
from server.direct.connections import Connections, Ended
from server.direct.patience import Patience
from server.errors import ApiError

LIMITS = Limits(head_timeout_s=10, body_timeout_s=10, min_body_bytes_per_s=100, send_timeout_s=30)
IDLE_S = 5.0


class Connection:
    """A connection that is in the state that a test says."""

    def __init__(self) -> None:
        self.running: Any = None
        self.in_head = self.is_busy = self.is_streaming = self.reading_is_paused = False
        self.ended_by_caller = self.is_extra = False
        self.body_bytes = self.unsent_bytes = 0
        self.failed: list[ApiError] = []
        self.num_hung_up = self.num_dropped = 0

    def fail(self, error: ApiError) -> None:
        self.failed.append(error)

    def hang_up(self) -> None:
        self.num_hung_up += 1

    def drop(self) -> None:
        self.num_dropped += 1

    def sweep(self, now: float, limits: Limits) -> Ended | None:
        return None


@pytest.fixture
def connection() -> Connection:
    return Connection()


@pytest.fixture
def patience(connection: Connection) -> Patience:
    made = Patience(connection, IDLE_S)
    made.open(0.0)
    return made


def test_a_connection_that_says_nothing_has_as_long_as_a_head(
    connection: Connection, patience: Patience
) -> None:
    assert patience.sweep(10.0, LIMITS) is None
    assert patience.sweep(10.1, LIMITS) is Ended.HEAD_TIMEOUT
    assert connection.num_hung_up == 1


def test_a_connection_that_waits_for_its_next_request_has_its_own_time(
    connection: Connection, patience: Patience
) -> None:
    patience.idle(2.0)
    assert patience.sweep(7.0, LIMITS) is None
    assert connection.num_hung_up == 0
    assert patience.sweep(7.1, LIMITS) is None
    assert connection.num_hung_up == 1


def test_a_head_is_waited_for_from_its_first_byte(
    connection: Connection, patience: Patience
) -> None:
    connection.in_head = True
    patience.rest(5.0, 0)
    patience.rest(14.0, 0)
    assert patience.sweep(15.0, LIMITS) is None
    assert patience.sweep(15.1, LIMITS) is Ended.HEAD_TIMEOUT
    assert [error.status for error in connection.failed] == [408]


def test_a_body_may_take_long_if_it_goes_on(connection: Connection, patience: Patience) -> None:
    connection.is_busy = True
    patience.rest(0.0, 0)
    for window in range(1, 50):
        connection.body_bytes += 1000
        assert patience.sweep(window * 10.1, LIMITS) is None
    connection.body_bytes += 999
    assert patience.sweep(50 * 10.1, LIMITS) is Ended.BODY_TIMEOUT
    assert [error.status for error in connection.failed] == [408]


def test_a_body_that_we_do_not_read_is_not_late(connection: Connection, patience: Patience) -> None:
    connection.is_busy = connection.reading_is_paused = True
    patience.rest(0.0, 0)
    assert patience.sweep(100.0, LIMITS) is None
    connection.reading_is_paused = False
    assert patience.sweep(110.0, LIMITS) is None
    assert patience.sweep(110.1, LIMITS) is Ended.BODY_TIMEOUT


def test_what_is_taken_slowly_is_sent_to_its_end(
    connection: Connection, patience: Patience
) -> None:
    connection.is_busy = True
    for second in range(0, 300, 20):
        connection.unsent_bytes = 1000 - second
        assert patience.sweep(float(second), LIMITS) is None
    assert patience.sweep(310.0, LIMITS) is None
    assert patience.sweep(311.0, LIMITS) is Ended.SEND_TIMEOUT
    assert connection.num_dropped == 1


def test_a_stream_is_not_judged_by_time(connection: Connection, patience: Patience) -> None:
    connection.is_busy = connection.is_streaming = True
    for second in range(0, 300, 20):
        connection.unsent_bytes = 1000 + second
        assert patience.sweep(float(second), LIMITS) is None


async def test_the_connection_that_was_idle_for_longest_makes_room() -> None:
    table = Connections(Limits(max_connections=2))
    first, second, third, fourth = (Connection() for _ in range(4))
    assert table.add(first)
    assert table.add(second)
    table.occupy(first)
    table.release(first)
    assert table.add(third)
    assert (first.num_dropped, second.num_dropped) == (0, 1)
    table.occupy(first)
    table.occupy(third)
    assert table.add(fourth)
    assert fourth.is_extra
    assert (first.num_dropped, third.num_dropped) == (0, 0)
    table.close()


async def test_all_that_is_unread_has_a_limit_together() -> None:
    table = Connections(Limits(max_unread_bytes=65536))
    many = [Connection() for _ in range(20)]
    for number, connection in enumerate(many):
        connection.unsent_bytes = 60_000 + number
        assert table.add(connection)
    table.sweep()
    assert [connection.num_dropped for connection in many] == [0] * 17 + [1] * 3
    assert table.ended[Ended.UNREAD] == 3
    table.close()
