"""Who may come in: API tokens, one-time login codes, browser sessions. Secrets are given out once and kept as hashes.

A secret is 256 random bits behind a prefix that says what it is, so SHA-256 without salt is enough: there is nothing to
guess, and how long it takes to look a hash up in an index says nothing about other secrets.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

from sqlalchemy import Row, delete, or_, select, update

from db.columns import db_time, now
from db.engine import Database
from db.schema import ROLES, login_codes, sessions, tokens
from tuner.errors import InternalError, UserError

Role = Literal["full", "read"]  # "read" may look and download, nothing more

SESSION_SECONDS = 14 * 86400.0  # a session ends when it was not used for so long
_SLIDE_SECONDS = 3600.0  # how exactly a session's end follows its use
_RECENT = 1.0  # seconds for which a checked token needs no second look
_SEEN = 1000  # tokens remembered so
_USED_EVERY = timedelta(minutes=1)  # how exactly the last use of a token is known
_TOKEN, _CODE, _SESSION = "ft_", "fc_", "fs_"  # how secrets begin


@dataclass(frozen=True)
class Token:
    """An API token; its secret is not known any more."""

    id: str
    name: str  # what its owner calls it
    role: Role
    created_at: datetime  # UTC, as all times
    last_used_at: datetime | None  # to the minute
    revoked_at: datetime | None  # refused since then


@dataclass(frozen=True)
class Session:
    """A signed-in browser."""

    csrf: str  # what its forms must send back
    role: Role
    created_at: datetime  # UTC
    expires_at: datetime  # UTC


class Access:
    """Tokens, codes and sessions of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.tokens = Tokens(database)
        self.codes = Codes(database)
        self.sessions = Sessions(database)

    def sweep(self) -> int:
        """Forget sessions and codes that are over, and give back how many."""
        with self._database.write() as connection:
            return sum(
                connection.execute(delete(table).where(table.c.expires_at <= db_time())).rowcount
                for table in (sessions, login_codes)
            )


class Tokens:
    """API tokens. They do not expire; they are revoked."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[str, tuple[Token, float]] = {}  # hash -> what check said last, and when (time.monotonic)

    def create(self, name: str, role: Role = "full") -> tuple[str, str]:
        """The id of a new token, and its secret, which nobody can find out again.

        Raises:
            UserError: the name is empty, long or not printable (``bad-token-name``); no such role (``bad-role``).
        """
        name = name.strip()
        if not (0 < len(name) <= 100 and name.isprintable()):
            raise UserError("A token's name is 1 to 100 printable characters.", code="bad-token-name")
        if role not in ROLES:
            raise UserError(f"'{role}' is no role.", code="bad-role", hint=f"Roles are {' and '.join(ROLES)}.")
        id, secret = secrets.token_hex(4), _new(_TOKEN)
        row = {"id": id, "name": name, "role": role, "hash": _hash(secret), "created_at": now()}
        with self._database.write() as connection:
            connection.execute(tokens.insert().values(**row))
        return id, secret

    def list(self, *, revoked: bool = False) -> list[Token]:
        """The tokens, oldest first; with ``revoked`` also those that are refused."""
        query = select(tokens).order_by(tokens.c.created_at, tokens.c.id)
        if not revoked:
            query = query.where(tokens.c.revoked_at.is_(None))
        with self._database.read() as connection:
            return [_token(row) for row in connection.execute(query)]

    def revoke(self, id: str) -> Token:
        """Refuse the token from now on; a revoked one stays as it is.

        Raises:
            UserError: no such token (``unknown-token``).
        """
        gone = update(tokens).where(tokens.c.id == id, tokens.c.revoked_at.is_(None)).values(revoked_at=now())
        with self._database.write() as connection:
            connection.execute(gone)
            row = connection.execute(select(tokens).where(tokens.c.id == id)).one_or_none()
        self._seen.clear()
        if row is None:
            raise UserError(f"There is no token '{id}'.", code="unknown-token")
        return _token(row)

    def recent(self, secret: str) -> Token | None:
        """What ``check`` said of this secret less than a second ago in this process, without asking the database.

        None means nothing but that it has to be asked. What is revoked here is forgotten at once; what another process
        revoked may be taken for a second longer.
        """
        found = self._seen.get(_hash(secret))
        return found[0] if found is not None and time.monotonic() - found[1] < _RECENT else None

    def check(self, secret: str) -> Token | None:
        """The token that has this secret, unless it is revoked."""
        if not secret.startswith(_TOKEN):
            return None
        with self._database.read() as connection:
            query = select(tokens).where(tokens.c.hash == _hash(secret), tokens.c.revoked_at.is_(None))
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        moment = now()
        if row.last_used_at is None or moment - row.last_used_at >= _USED_EVERY:
            # Of several requests at one moment the first one writes.
            old = or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at <= moment - _USED_EVERY)
            _try(self._database, update(tokens).where(tokens.c.id == row.id, old).values(last_used_at=moment))
        token = _token(row)
        if len(self._seen) >= _SEEN:
            self._seen.clear()
        self._seen[_hash(secret)] = (token, time.monotonic())
        return token


class Codes:
    """One-time login codes, which a browser exchanges for a session."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def issue(self, seconds: float) -> str:
        """A new code, good for so long."""
        code = _new(_CODE)
        row = {"hash": _hash(code), "created_at": now(), "expires_at": db_time() + seconds}
        with self._database.write() as connection:
            connection.execute(login_codes.insert().values(**row))
        return code

    def redeem(self, code: str) -> str | None:
        """The secret of a new session, once; None if the code is unknown, used or too old."""
        if not code.startswith(_CODE):
            return None
        secret, moment = _new(_SESSION), now()
        session = {
            "hash": _hash(secret),
            "csrf": secrets.token_urlsafe(32),
            "created_at": moment,
            "last_used_at": moment,
            "expires_at": db_time() + SESSION_SECONDS,
        }
        # Using up and opening in one transaction: of two that redeem at once, one finds the row gone.
        use = delete(login_codes).where(login_codes.c.hash == _hash(code), login_codes.c.expires_at > db_time())
        with self._database.write() as connection:
            if connection.execute(use).rowcount == 0:
                return None
            connection.execute(sessions.insert().values(**session))
        return secret


class Sessions:
    """Signed-in browsers. A session that is used goes on."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def check(self, secret: str) -> Session | None:
        """The session, or None if it is unknown or over."""
        if not secret.startswith(_SESSION):
            return None
        mine = sessions.c.hash == _hash(secret)
        due = sessions.c.expires_at <= db_time() + (SESSION_SECONDS - _SLIDE_SECONDS)
        query = select(sessions, due.label("due")).where(mine, sessions.c.expires_at > db_time())
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if row.due:
            later = {"last_used_at": now(), "expires_at": db_time() + SESSION_SECONDS}
            _try(self._database, update(sessions).where(mine, due).values(**later))
        return Session(row.csrf, "full", row.created_at, datetime.fromtimestamp(row.expires_at, UTC))

    def end(self, secret: str) -> None:
        """Sign out; nothing happens if the session is over already."""
        with self._database.write() as connection:
            connection.execute(delete(sessions).where(sessions.c.hash == _hash(secret)))


def _new(prefix: str) -> str:
    return prefix + secrets.token_urlsafe(32)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _try(database: Database, statement: Any) -> None:
    """Write what is good to know only: a busy database or a full disk must not lock anybody out."""
    with suppress(InternalError), database.write() as connection:
        connection.execute(statement)


def _token(row: Row[Any]) -> Token:
    return Token(row.id, row.name, cast(Role, row.role), row.created_at, row.last_used_at, row.revoked_at)
