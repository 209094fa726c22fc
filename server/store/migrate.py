"""Brings the database to this version's schema; safe when several processes start at once."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from server.store.database import Database
from server.store.faults import StoreUnusableError

_FOLDER = Path(__file__).parent / "migrations"
_LOCK_NUMBER = 7_303_014_221  # any fixed number of ours; names the lock in PostgreSQL


async def migrate(database: Database) -> None:
    """Nothing is written where there is nothing to do, so that a start needs no write lock. Else
    one writing transaction: on SQLite the write lock, on PostgreSQL an advisory lock keeps other
    starters waiting. Raises StoreUnusableError for a database of a newer version or of
    another program."""
    async with database.read() as connection:
        if await connection.run_sync(_is_current):
            return
    async with database.write() as connection:
        if database.dialect == "postgresql":
            await connection.execute(
                text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER}
            )
        await connection.run_sync(_upgrade)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config


def _is_current(connection: Connection) -> bool:
    head = ScriptDirectory.from_config(_config()).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() == head


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    _check_origin(connection, ScriptDirectory.from_config(config))
    command.upgrade(config, "head")


def _check_origin(connection: Connection, scripts: ScriptDirectory) -> None:
    where = connection.engine.url.database
    found = MigrationContext.configure(connection).get_current_revision()
    ours = {script.revision for script in scripts.walk_revisions()}
    if found is None:
        tables = set(inspect(connection).get_table_names()) - {"alembic_version"}
        if tables:
            raise StoreUnusableError(
                f"The database {where} is another program's (it has a table {min(tables)!r}, and "
                "no version of Tuneyard). Name another database or data directory."
            )
    elif found not in ours:
        newest = scripts.get_current_head()
        raise StoreUnusableError(
            f"The database {where} has the schema {found}, and this Tuneyard knows those up to "
            f"{newest}. Start the version that made it, or name another database or data directory."
        )
