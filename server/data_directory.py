"""The data directory: who may read it, and what is wrong with one that cannot be used."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from server.config import Config
from server.store import StoreUnusableError

_ONLY_THE_OWNER = 0o077
_OWNERS_FOLDER = 0o700


class DataUnusableError(Exception):
    """The message is for the operator."""


def prepare_data(config: Config) -> None:
    """Makes the folders that are missing, and whatever this process and its children write from now
    on readable by their owner only. Raises DataUnusableError."""
    os.umask(_ONLY_THE_OWNER)
    try:
        for folder in (config.data, config.run_dir, config.jobs_dir, config.data / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        config.data.chmod(_OWNERS_FOLDER)
        probe = config.run_dir / "writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise DataUnusableError(
            f"The data directory {config.data} cannot be used: {error.strerror}. Mend that, or "
            "name another one by DATA or `data`."
        ) from error


def check_database(config: Config) -> None:
    """Looks at an SQLite database before anything is started on it. Raises StoreUnusableError."""
    url = make_url(config.database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        return
    path = Path(url.database)
    if not path.exists() or path.stat().st_size == 0:
        _check_nothing_is_orphaned(path, config)
        return
    try:
        with closing(sqlite3.connect(path, timeout=5.0)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        raise StoreUnusableError.of(config.database_url, error) from error
    if found != "ok":
        raise StoreUnusableError(
            f"The database {path} is damaged ({found}). Restore it from a backup, or save what can "
            f"be read with `sqlite3 {path} .recover`."
        )


def _check_nothing_is_orphaned(database: Path, config: Config) -> None:
    """An empty database would be filled anew, and the files of a lost one swept away."""
    folders = (config.files_dir, config.adapters_dir, config.jobs_dir)
    kept = [folder for folder in folders if folder.is_dir() and any(folder.iterdir())]
    if kept:
        what = "is empty" if database.exists() else "is missing"
        raise StoreUnusableError(
            f"The database {database} {what}, but {', '.join(map(str, kept))} hold files that it "
            "knew of. Restore it from a backup, or move them away to start afresh."
        )
