"""Column types that give back exactly what was put in, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Double, Integer, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

# SQLite numbers rows by themselves only if the column is called exactly INTEGER.
RowId: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")


class Json(TypeDecorator[Any]):
    """A JSON value as text; None is NULL.

    Text rather than a JSON type: PostgreSQL's json refuses infinities, which bounds of a Clip are, and its jsonb also
    NUL characters and the order of keys, so that hashes of what comes back would differ.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else _ENCODER.encode(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class Words(TypeDecorator[str]):
    """Text to search by. What a database cannot hold (NUL characters, lone surrogates) becomes U+FFFD: so a filter
    made of it finds nothing, where the driver would raise."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


class Utc(TypeDecorator[datetime]):
    """A moment, always with time zone UTC. SQLite keeps no zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a moment without time zone cannot be stored: {value}")
        return None if value is None else _in_utc(value)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Number(TypeDecorator[float]):
    """A float64. Not-a-number becomes infinity: SQLite would make it NULL, and as an error both exceed any limit."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        return None if value is None else math.inf if math.isnan(value) else float(value)


class db_time(FunctionElement[float]):
    """This moment by the database's own clock, in seconds since 1970: leases never depend on a client's clock."""

    type = Double()
    name = "db_time"
    inherit_cache = True


@compiles(db_time, "sqlite")
def _sqlite_time(_element: Any, _compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"  # the day of 1970-01-01; unixepoch has no fractions yet


@compiles(db_time, "postgresql")
def _postgresql_time(_element: Any, _compiler: Any, **_: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


def now() -> datetime:
    """This moment in UTC."""
    return datetime.now(UTC)


def _in_utc(value: datetime) -> datetime:
    """The moment in UTC; of the calendar's first and last day what is left of it there."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        return (datetime.min if value.year == 1 else datetime.max).replace(tzinfo=UTC)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"not a JSON value: {value!r}")


_ENCODER = json.JSONEncoder(separators=(",", ":"), default=_plain)  # made once: every write needs it
