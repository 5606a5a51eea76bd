"""Database URLs: the default one, and what is wrong with a user's."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from tuner.errors import UserError

_EXAMPLES = "Write sqlite:////absolute/path.db, sqlite:///relative/path.db or postgresql://user:password@host/name."


def data_folder() -> Path:
    """The folder of what fusetune keeps for this user: fusetune/ in $XDG_DATA_HOME or ~/.local/share."""
    base = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification says that a relative path is to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "share") / "fusetune"


def default_url() -> str:
    """$FUSETUNE_DB, or fusetune.db in the data folder."""
    return os.environ.get("FUSETUNE_DB") or f"sqlite:///{data_folder() / 'fusetune.db'}"


def parse_url(url: str) -> URL:
    """The URL with its driver made explicit; ``postgres://`` is understood too.

    A PostgreSQL URL without a password gets the one in $FUSETUNE_DB_PASSWORD or in the file $FUSETUNE_DB_PASSWORD_FILE:
    command lines can be read by everybody on a machine.

    Raises:
        UserError: not a URL, an unknown scheme, SQLite in memory, or an unreadable password (``bad-database-url``).
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise UserError("The database is not named by a URL.", code="bad-database-url", hint=_EXAMPLES) from error
    if parsed.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
        return parsed if parsed.password is not None else parsed.set(password=_password())
    if parsed.drivername not in {"sqlite", "sqlite+pysqlite"}:
        raise UserError(
            f"Databases of kind '{parsed.drivername}' are not supported.", code="bad-database-url", hint=_EXAMPLES
        )
    if parsed.host or parsed.query:
        raise UserError("A SQLite URL has neither host nor options.", code="bad-database-url", hint=_EXAMPLES)
    if not parsed.database or parsed.database == ":memory:":
        # Every thread and process would see a database of its own.
        raise UserError("SQLite needs a file; memory is not supported.", code="bad-database-url", hint=_EXAMPLES)
    return parsed.set(drivername="sqlite+pysqlite")


def full_url(url: str) -> str:
    """The URL with the password that ``parse_url`` found for it: for a child process, which lacks our environment."""
    return parse_url(url).render_as_string(hide_password=False)


def _password() -> str | None:
    if file := os.environ.get("FUSETUNE_DB_PASSWORD_FILE"):
        try:
            return Path(file).read_text().rstrip("\n")
        except (OSError, UnicodeError) as error:
            raise UserError(f"The password file {file} cannot be read: {error}.", code="bad-database-url") from error
    return os.environ.get("FUSETUNE_DB_PASSWORD") or None
