"""Brings a database to this program's schema, creating it on first use; safe when several processes come at once."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from db.engine import Database
from db.schema import metadata
from tuner.errors import UserError

VERSION_TABLE = "fusetune_version"  # not Alembic's default: Optuna's databases use that one
_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK_KEY = 0x66757365  # PostgreSQL advisory locks are numbers; any fixed one will do
_alembic_state = threading.Lock()  # Alembic keeps the running migration in module globals


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, without an alembic.ini."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migrate(database: Database) -> None:
    """Bring the schema to the newest version; does nothing, and takes no lock, if it is there already.

    A migration is one transaction on both databases: killed half-way it leaves nothing behind.

    Raises:
        UserError: a newer fusetune made it (``newer-database``); it is another program's (``foreign-database``);
            it is damaged or out of reach (see Database).
    """
    script = ScriptDirectory.from_config(alembic_config())
    head = script.get_current_head()
    with database.read() as connection:
        found = _version(connection)
        if found == head:
            return
        if found is None:
            _refuse_foreign(database, connection)
        elif found not in {revision.revision for revision in script.walk_revisions()}:
            raise UserError(
                f"The database {database.name} was written by a newer fusetune (its schema is {found}).",
                code="newer-database",
                hint="Update fusetune, or name another database with --db.",
            )
    database.use_wal()
    with database.write() as connection:
        if not database.sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        # Another process may have finished while this one waited for the lock.
        if _version(connection) != head:
            with _alembic_state:
                command.upgrade(alembic_config(connection), "head")


def _version(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def _refuse_foreign(database: Database, connection: Connection) -> None:
    present = set(inspect(connection).get_table_names())
    # A PostgreSQL schema may be shared with others as long as no name clashes; a SQLite file is ours or is not.
    clashes = present if database.sqlite else present & set(metadata.tables)
    # On PostgreSQL another process that opened the same new database may have made it since its version was asked for.
    if clashes and _version(connection) is None:
        raise UserError(
            f"The database {database.name} belongs to another program (it has a table '{min(clashes)}').",
            code="foreign-database",
            hint="Name another database with --db.",
        )
