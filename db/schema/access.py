"""Who may use a server: API tokens, one-time sign-in codes, and browsers' sessions."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Index, String, Table, UniqueConstraint

from db.columns import Number, Utc, Words
from db.schema.base import ROLES, metadata, one_of

tokens = Table(
    "tokens",
    metadata,
    Column("id", Words(16), primary_key=True),
    Column("name", Words, nullable=False),
    Column("role", String(8), nullable=False),
    Column("hash", String(64), nullable=False),  # SHA-256 of the secret, which is stored nowhere
    Column("created_at", Utc, nullable=False),
    Column("last_used_at", Utc),
    Column("revoked_at", Utc),
    CheckConstraint(one_of("role", ROLES), name="role"),
    UniqueConstraint("hash"),
)

login_codes = Table(
    "login_codes",
    metadata,
    Column("hash", String(64), primary_key=True),  # SHA-256 of the code
    Column("created_at", Utc, nullable=False),
    Column("expires_at", Number, nullable=False),  # db_time
    Index(None, "expires_at"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("hash", String(64), primary_key=True),  # SHA-256 of the cookie's secret
    Column("csrf", String(64), nullable=False),  # shown in the pages of this session
    Column("created_at", Utc, nullable=False),
    Column("last_used_at", Utc),
    Column("expires_at", Number, nullable=False),  # db_time
    Index(None, "expires_at"),
)
