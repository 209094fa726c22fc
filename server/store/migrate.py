"""Brings the database to this version's schema; safe when several processes start at once."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from server.store.database import Database

_FOLDER = Path(__file__).parent / "migrations"
_LOCK_NUMBER = 7_303_014_221  # any fixed number of ours; names the lock in PostgreSQL


async def migrate(database: Database) -> None:
    """One writing transaction: on SQLite the write lock, on PostgreSQL an advisory lock keeps
    other starters waiting."""
    async with database.write() as connection:
        if database.dialect == "postgresql":
            await connection.execute(
                text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER}
            )
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
