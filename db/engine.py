"""One database: connections set up rightly, short read and write transactions, driver errors made clear."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Column, ColumnElement, Connection, Row, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tuner.errors import FusetuneError, InternalError, UserError

AnyRow = Row[*tuple[Any, ...]]  # of whatever columns
BUSY_SECONDS = 30.0  # how long a SQLite writer waits for the others
# Of one process at most: a server's threads for requests (12), uploads (8), events (5), exports and the dispatcher.
CONNECTIONS = 40
_KEPT = 16  # of them, open while idle: opening one costs more than most queries
_POOL = {"pool_size": _KEPT, "max_overflow": CONNECTIONS - _KEPT, "pool_timeout": BUSY_SECONDS}
_WRITE = "fusetune_write"


class Database:
    """An engine and the two ways to use it.

    Thread-safe; not to be used across a fork: open another one in the child. All errors of the driver leave here as
    UserError (the file or server at fault) or InternalError (``database-busy``, ``disk-full``, ``database-invariant``,
    ``database``).
    """

    def __init__(self, url: URL) -> None:
        """Connects nothing yet.

        Raises:
            UserError: the folder of a SQLite file cannot be made (``bad-database``); no driver (``no-driver``).
        """
        self.url = url
        self.sqlite = url.get_backend_name() == "sqlite"
        # Writers of one process take turns here: SQLite itself lets them poll for its lock, up to 0.1 s apart and in no
        # order, so that under load some wait for seconds.
        self._turn: AbstractContextManager[object] = threading.Lock() if self.sqlite else nullcontext()
        if self.sqlite:
            self.engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, **_POOL)
            _make_folder(Path(url.database or ""))
            event.listen(self.engine, "connect", _set_up_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            try:
                self.engine = create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10}, **_POOL)
            except ModuleNotFoundError as error:
                raise UserError(
                    "PostgreSQL needs the driver psycopg.", code="no-driver", hint="pip install 'fusetune[postgres]'"
                ) from error

    @property
    def name(self) -> str:
        """What users call it: the file, or the URL without its password."""
        return str(self.url.database) if self.sqlite else self.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing."""
        with self._translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed at the end, or rolled back if the block raises."""
        with self._turn, self._translated(), self.engine.connect() as plain:
            connection = plain.execution_options(**{_WRITE: True})
            with connection.begin():
                yield connection

    def insert_missing(self, connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
        """Insert the row unless one with its primary key is there already."""
        _execute(connection, _insert_missing(self.sqlite, table), row)

    def insert_new(
        self, connection: Connection, table: Table, row: Mapping[str, Any], unique: Column[Any],
        returning: Sequence[Column[Any]],
    ) -> AnyRow | None:  # fmt: skip
        """Insert the row and give back these columns of it; None if another has its value in the column ``unique``."""
        statement = _insert_new(self.sqlite, table, unique, tuple(returning))
        return connection.execute(statement, dict(row)).one_or_none()

    def upsert(self, connection: Connection, table: Table, row: Mapping[str, Any], update: Sequence[str]) -> None:
        """Insert the row, or set these columns of the one that has its primary key."""
        _execute(connection, _upsert(self.sqlite, table, tuple(update)), row)

    def use_wal(self) -> None:
        """Make a SQLite file keep a write-ahead log, so that readers and the writer do not stop each other."""
        if not self.sqlite:
            return
        with self._translated():
            # Changing the mode needs the file for a moment alone, and SQLite does not wait for that by itself.
            deadline = time.monotonic() + BUSY_SECONDS
            while True:
                raw = self.engine.raw_connection()
                try:
                    raw.cursor().execute("PRAGMA journal_mode = WAL")
                    return
                except Exception as error:
                    if getattr(error, "sqlite_errorname", "") not in {"SQLITE_BUSY", "SQLITE_LOCKED"}:
                        raise self._failure(error) from error
                    if time.monotonic() > deadline:
                        raise self._failure(error) from error
                    time.sleep(0.01)
                finally:
                    raw.close()

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise InternalError(
                f"The database refused a row: {_first_line(error.orig)}.", code="database-invariant"
            ) from error
        except DBAPIError as error:
            raise self._failure(error.orig or error) from error
        except PoolTimeout as error:
            raise InternalError(f"All connections to {self.name} are in use.", code="database-busy") from error
        except SQLAlchemyError as error:
            raise InternalError(f"The database {self.name} failed: {_first_line(error)}.", code="database") from error
        except sqlite3.Error as error:  # from _begin_sqlite
            raise self._failure(error) from error

    def _failure(self, cause: BaseException) -> FusetuneError:
        """What a driver's error means to the user."""
        said = _first_line(cause)
        if not self.sqlite:
            # SQLSTATE classes: 08 and none at all mean that there is no connection, 28 and 3D that it is refused.
            state = getattr(cause, "sqlstate", None)
            if state is None or state[:2] in {"08", "28", "3D", "57"}:
                return UserError(f"The database {self.name} cannot be reached: {said}.", code="database-unreachable")
            if state == "53100":
                return InternalError(f"The disk of the database {self.name} is full.", code="disk-full")
            return InternalError(f"The database {self.name} failed: {said}.", code="database")
        kind = "_".join(str(getattr(cause, "sqlite_errorname", "")).split("_")[:2])
        match kind:
            case "SQLITE_FULL":
                return InternalError(f"The disk that holds {self.name} is full.", code="disk-full")
            case "SQLITE_BUSY" | "SQLITE_LOCKED":
                return InternalError(
                    f"The database {self.name} stayed busy for {BUSY_SECONDS:g} s.", code="database-busy"
                )
            case "SQLITE_NOTADB" | "SQLITE_CORRUPT":
                return UserError(
                    f"The database file {self.name} is damaged or no SQLite database: {said}.",
                    code="bad-database",
                    hint="Move it away, or name another one with --db.",
                )
            case "SQLITE_CANTOPEN" | "SQLITE_READONLY" | "SQLITE_PERM":
                return UserError(
                    f"The database file {self.name} cannot be opened for reading and writing: {said}.",
                    code="bad-database",
                )
        return InternalError(f"The database {self.name} failed: {said}.", code="database")


def _execute(connection: Connection, insert: Any, row: Mapping[str, Any]) -> None:
    """Insert the row, in which what the database is to work out stands as an expression."""
    said = {name: value for name, value in row.items() if isinstance(value, ColumnElement)}
    given = {name: value for name, value in row.items() if name not in said}
    connection.execute(insert.values(**said) if said else insert, given)


@cache  # to build a statement costs more than to run it
def _insert_missing(lite: bool, table: Table) -> Any:
    return (sqlite if lite else postgresql).insert(table).on_conflict_do_nothing()


@cache
def _upsert(lite: bool, table: Table, update: tuple[str, ...]) -> Any:
    statement = (sqlite if lite else postgresql).insert(table)
    changes = {name: statement.excluded[name] for name in update}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=changes)


@cache
def _insert_new(lite: bool, table: Table, unique: Column[Any], returning: tuple[Column[Any], ...]) -> Any:
    statement = (sqlite if lite else postgresql).insert(table)
    return statement.on_conflict_do_nothing(index_elements=[unique]).returning(*returning)


def _make_folder(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder {file.parent} for the database cannot be made: {error.strerror}.", code="bad-database"
        ) from error


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # Without this the driver itself decides when a transaction begins, which is too late for BEGIN IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA synchronous = NORMAL")  # with WAL: a power cut may lose the last commits, never the file
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer that begins as a reader cannot wait for another writer: SQLite fails it at once instead.
    immediate = connection.get_execution_options().get(_WRITE, False)
    # Straight to the driver: SQLAlchemy's way costs as much as a short query.
    driver: Any = connection.connection.dbapi_connection
    driver.execute("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _first_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
