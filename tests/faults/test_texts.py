"""Texts that a database cannot hold."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from server.faults import answer_to
from server.store.passing_faults import passing_fault


class NoSuchCharacterError(Exception):
    """As PostgreSQL's driver tells of a NUL character."""

    sqlstate = "22021"


def test_a_nul_character_is_the_caller_s_fault() -> None:
    fault = passing_fault(DBAPIError("SELECT", {}, NoSuchCharacterError()))
    assert fault is not None
    answer = answer_to(fault)
    assert (answer.status, answer.code) == (400, "invalid_value")
