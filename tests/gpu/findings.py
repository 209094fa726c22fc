"""What a check found: sentences with a verdict, or measurements without one."""

from __future__ import annotations

import msgspec


class Finding(msgspec.Struct, frozen=True):
    what: str
    measured: str
    passed: bool | None = None
    """None: a measurement, or something that could not be tried here."""


class NotHere(Exception):
    """The check needs something that this machine lacks; the message says what."""
