"""Database URLs: the default one, and what is wrong with a user's."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from tuner.errors import UserError

_EXAMPLES = "Write sqlite:////absolute/path.db, sqlite:///relative/path.db or postgresql://user:password@host/name."


def default_url() -> str:
    """SQLite in the user's data folder: $XDG_DATA_HOME or ~/.local/share, then fusetune/fusetune.db."""
    base = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification says that a relative path is to be ignored.
    folder = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "share"
    return f"sqlite:///{folder / 'fusetune' / 'fusetune.db'}"


def parse_url(url: str) -> URL:
    """The URL with its driver made explicit; ``postgres://`` is understood too.

    Raises:
        UserError: not a URL, an unknown scheme, or SQLite in memory (``bad-database-url``).
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise UserError("The database is not named by a URL.", code="bad-database-url", hint=_EXAMPLES) from error
    if parsed.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        return parsed.set(drivername="postgresql+psycopg")
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
