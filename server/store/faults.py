"""Databases that cannot be used, in words for the operator."""

from __future__ import annotations

from sqlalchemy import make_url

_SQLITE = {
    "SQLITE_NOTADB": "is no SQLite database. Name another file or data directory",
    "SQLITE_CORRUPT": "is damaged. Restore it from a backup",
    "SQLITE_READONLY": "cannot be written to. Give this user the right to write it",
    "SQLITE_CANTOPEN": "cannot be opened. Look at its folder and who may read it",
    "SQLITE_PERM": "cannot be opened. Look at who may read it",
    "SQLITE_BUSY": "is locked by another process. End that, and start again",
    "SQLITE_FULL": "has no room to grow: its disk is full. Make room, and start again",
    "SQLITE_IOERR": "cannot be read or written: its disk fails or is full",
}
"""By the beginning of SQLite's name for the error (https://sqlite.org/rescode.html)."""


class StoreUnusableError(Exception):
    """The message is for the operator; it holds no password and no row."""

    @classmethod
    def of(cls, url: str, error: BaseException) -> StoreUnusableError:
        """What a driver's `error` says of the database at `url`."""
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            where = parsed.render_as_string(hide_password=True)
            return cls(f"The database {where} cannot be used: {_first_line(error)}")
        name = getattr(error, "sqlite_errorname", "")
        said = next((text for start, text in _SQLITE.items() if name.startswith(start)), None)
        said = said or f"cannot be used: {_first_line(error)}"
        return cls(f"The database {parsed.database} {said}.")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
