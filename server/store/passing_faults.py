"""Faults of a database that pass, and texts that it cannot hold: told apart by the database's own
codes."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from server.blobs.storage import StorageFullError

_SQLITE_FULL = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")
_SQLITE_PASSING = (
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "SQLITE_IOERR",
    "SQLITE_CANTOPEN",
    "SQLITE_PROTOCOL",
)
_POSTGRES_FULL = "53100"
_POSTGRES_PASSING = ("08", "53", "55P03", "57P", "58")
"""Connections, resources, lock_timeout, shutdowns, faults of its system."""

_POSTGRES_NO_TEXT = "22021"
"""A NUL character, which no text of its can have."""


class UnstorableTextError(Exception):
    """The database can neither hold a text nor look it up."""


class StoreUnavailableError(Exception):
    """The store cannot be read or written at the moment: another process holds its lock, or it is
    out of reach. Nothing of the transaction was kept."""


def passing_fault(
    error: Exception,
) -> StorageFullError | StoreUnavailableError | UnstorableTextError | None:
    """What to raise in place of a driver's error; None for a fault of ours."""
    if isinstance(error, NoConnectionError | OSError):
        return StoreUnavailableError(f"the database cannot be reached: {error}")
    if not isinstance(error, DBAPIError | sqlite3.Error):
        return None
    cause = error.orig if isinstance(error, DBAPIError) else error
    name = str(getattr(cause, "sqlite_errorname", None) or "")
    state = str(getattr(cause, "sqlstate", None) or "")
    if name.startswith(_SQLITE_FULL) or state == _POSTGRES_FULL:
        return StorageFullError("the database has no room left")
    if state == _POSTGRES_NO_TEXT:
        return UnstorableTextError("the database takes no text with a NUL character")
    is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if is_lost or (name or state).startswith(_SQLITE_PASSING if name else _POSTGRES_PASSING):
        return StoreUnavailableError(f"the database cannot be used: {name or state or cause}")
    return None
