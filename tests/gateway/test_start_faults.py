"""What an operator is told when `tuneyard serve` cannot start on its data: one line."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.gateway.test_keys import tuneyard


def _served_before(data: Path) -> Path:
    """A data directory as an earlier start left it, with a key in its database."""
    made = tuneyard(data.parent, "keys", "create", "earlier")
    assert made.returncode == 0, made.stderr
    return data / "tuneyard.db"


def _text_instead(data: Path) -> None:
    data.mkdir()
    (data / "tuneyard.db").write_text("This is no database. " * 100)


def _damaged(data: Path) -> None:
    database = _served_before(data)
    content = bytearray(database.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    database.write_bytes(content)


def _of_another_program(data: Path) -> None:
    data.mkdir()
    with closing(sqlite3.connect(data / "tuneyard.db")) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")


def _of_a_newer_version(data: Path) -> None:
    with closing(sqlite3.connect(_served_before(data))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


def _emptied_beside_files(data: Path) -> None:
    _served_before(data).write_bytes(b"")
    (data / "files").mkdir()
    (data / "files" / "0123").write_bytes(b"{}")


def _gone_beside_files(data: Path) -> None:
    _emptied_beside_files(data)
    (data / "tuneyard.db").unlink()


def _a_file(data: Path) -> None:
    data.write_bytes(b"")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (_text_instead, "is no SQLite database"),
        (_damaged, "damaged"),
        (_of_another_program, "is another program's (it has a table 'recipes'"),
        (_of_a_newer_version, "has the schema 9999"),
        (_emptied_beside_files, "tuneyard.db is empty, but"),
        (_gone_beside_files, "tuneyard.db is missing, but"),
        (_a_file, "cannot be used: File exists"),
    ],
)
def test_a_fault_of_the_data_is_one_clear_line(
    tmp_path: Path, prepare: Callable[[Path], None], said: str
) -> None:
    prepare(tmp_path / "data")
    for command in (["serve"], ["keys", "list"]):
        done = tuneyard(tmp_path, *command)
        told = (done.stdout + done.stderr).strip()
        assert done.returncode == 1
        assert said in told
        assert len(told.splitlines()) == 1
        assert "Traceback" not in told


def test_a_locked_database_is_said_to_be_locked(tmp_path: Path) -> None:
    database = _served_before(tmp_path / "data")
    with closing(sqlite3.connect(database, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        listed = tuneyard(tmp_path, "keys", "list")
        done = tuneyard(tmp_path, "keys", "create", "another")
    assert listed.returncode == 0, "reading waits for no lock"
    assert done.returncode == 1
    assert "is locked by another process" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_read_only_data_directory_is_said_to_be_so(tmp_path: Path) -> None:
    _served_before(tmp_path / "data")
    if os.geteuid() == 0:
        data = str(tmp_path / "data")
        subprocess.run(["mount", "--bind", data, data], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", data], check=True)
        try:
            done = tuneyard(tmp_path, "serve")
        finally:
            subprocess.run(["umount", data], check=True)
    else:
        (tmp_path / "data").chmod(0o500)
        done = tuneyard(tmp_path, "serve")
    assert done.returncode == 1
    assert "cannot be used: Read-only file system" in done.stdout or "denied" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
