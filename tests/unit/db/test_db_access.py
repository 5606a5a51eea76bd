"""Tokens, login codes and sessions: what lets somebody in, for how long, and what the database gives away."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from db.access import SESSION_SECONDS
from db.store import Store
from tuner.errors import InternalError, UserError

ROOT = Path(__file__).parents[3]
REDEEM = """
import sys
from db.store import Store
with Store.open(sys.argv[1]) as store:
    for code in iter(sys.stdin.readline, ""):
        print(store.access.codes.redeem(code.strip()), flush=True)
"""


def execute(store: Store, statement: str) -> None:
    with store.database.write() as connection:
        connection.execute(text(statement))


def dump(store: Store) -> str:
    """All that the access tables hold."""
    with store.database.read() as connection:
        tables = ("tokens", "login_codes", "sessions")
        return repr([connection.execute(text(f"SELECT * FROM {table}")).all() for table in tables])


def test_a_token_lets_its_bearer_in_until_it_is_revoked(store: Store) -> None:
    tokens = store.access.tokens
    id, secret = tokens.create("laptop")
    other, kept = tokens.create("ci", "read")
    found, reader = tokens.check(secret), tokens.check(kept)
    assert found and (found.id, found.name, found.role) == (id, "laptop", "full")
    assert reader and (reader.id, reader.role) == (other, "read")
    revoked = tokens.revoke(id)
    assert revoked.revoked_at is not None
    assert tokens.check(secret) is None and tokens.check(kept) is not None
    assert tokens.revoke(id) == revoked
    assert [token.id for token in tokens.list()] == [other]
    assert [token.id for token in tokens.list(revoked=True)] == [id, other]
    with pytest.raises(UserError) as caught:
        tokens.revoke("none\0")
    assert caught.value.code == "unknown-token"


def test_secrets_say_what_they_are_and_are_never_stored(store: Store) -> None:
    _, token = store.access.tokens.create("a")
    code, another = store.access.codes.issue(60), store.access.codes.issue(60)
    session = store.access.codes.redeem(code)
    assert session is not None
    secrets = (token, another, session)
    assert [secret[:3] for secret in secrets] == ["ft_", "fc_", "fs_"]
    held = dump(store)
    for secret in secrets:
        assert len(secret) >= 3 + 43  # 256 bits
        assert secret not in held and secret[3:] not in held
    # One kind of secret is not good for another.
    assert store.access.tokens.check(session) is store.access.sessions.check(token) is None
    assert store.access.codes.redeem(token) is None


@pytest.mark.parametrize("secret", ["", "ft_", "fs_", "fc_", "ft_\0", "fs_\udc80é", "fc_" + "x" * 10_000])
def test_nonsense_lets_nobody_in(store: Store, secret: str) -> None:
    store.access.tokens.create("a")
    assert store.access.tokens.check(secret) is None
    assert store.access.sessions.check(secret) is None
    assert store.access.codes.redeem(secret) is None
    store.access.sessions.end(secret)


@pytest.mark.parametrize(("name", "role"), [("", "full"), (" ", "full"), ("x" * 101, "read"), ("a\nb", "full")])
def test_a_bad_token_name_is_refused(store: Store, name: str, role: str) -> None:
    with pytest.raises(UserError) as caught:
        store.access.tokens.create(name, role)  # type: ignore[arg-type]
    assert caught.value.code == "bad-token-name"


def test_a_bad_role_is_refused_by_the_program_and_by_the_database(store: Store) -> None:
    with pytest.raises(UserError) as caught:
        store.access.tokens.create("a", "admin")  # type: ignore[arg-type]
    assert caught.value.code == "bad-role"
    store.access.tokens.create("a")
    with pytest.raises(InternalError):
        execute(store, "UPDATE tokens SET role = 'admin'")


def test_the_last_use_of_a_token_is_noted_at_most_once_a_minute(store: Store) -> None:
    _, secret = store.access.tokens.create("a")
    assert store.access.tokens.list()[0].last_used_at is None
    store.access.tokens.check(secret)
    first = store.access.tokens.list()[0].last_used_at
    assert first is not None and abs(datetime.now(UTC) - first) < timedelta(minutes=5)
    with store.database.write() as connection:
        recent = first - timedelta(seconds=20)
        connection.execute(text("UPDATE tokens SET last_used_at = :at"), {"at": _stored(store, recent)})
    store.access.tokens.check(secret)
    assert store.access.tokens.list()[0].last_used_at == recent
    with store.database.write() as connection:
        connection.execute(
            text("UPDATE tokens SET last_used_at = :at"), {"at": _stored(store, first - timedelta(seconds=61))}
        )
    store.access.tokens.check(secret)
    last = store.access.tokens.list()[0].last_used_at
    assert last is not None and last >= first


def _stored(store: Store, moment: datetime) -> object:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f") if store.database.sqlite else moment


def test_a_database_that_cannot_be_written_locks_nobody_out(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/x.db") as store:
        _, secret = store.access.tokens.create("a")
        session = store.access.codes.redeem(store.access.codes.issue(60))
        assert session is not None
        execute(store, "UPDATE sessions SET expires_at = expires_at - 7200")
        for table in ("tokens", "sessions"):
            refuse = f"CREATE TRIGGER no_{table} BEFORE UPDATE ON {table} BEGIN SELECT raise(ABORT, 'full'); END"
            execute(store, refuse)
        assert store.access.tokens.check(secret) is not None
        assert store.access.sessions.check(session) is not None


def test_a_code_opens_one_session(store: Store) -> None:
    code = store.access.codes.issue(60)
    secret = store.access.codes.redeem(code)
    assert secret is not None and store.access.codes.redeem(code) is None
    session = store.access.sessions.check(secret)
    assert session and session.role == "full" and len(session.csrf) >= 32
    other = store.access.codes.redeem(store.access.codes.issue(60))
    assert other is not None
    another = store.access.sessions.check(other)
    assert another and another.csrf != session.csrf
    store.access.sessions.end(secret)
    assert store.access.sessions.check(secret) is None and store.access.sessions.check(other) is not None


def test_an_old_code_opens_nothing(store: Store) -> None:
    assert store.access.codes.redeem(store.access.codes.issue(0)) is None
    late = store.access.codes.issue(60)
    execute(store, "UPDATE login_codes SET expires_at = expires_at - 61")
    assert store.access.codes.redeem(late) is None


def test_of_processes_that_redeem_one_code_at_once_one_gets_in(url: str) -> None:
    with Store.open(url) as store:
        command = [sys.executable, "-c", REDEEM, url]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        racers = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(2)]  # type: ignore[call-overload]
        try:
            for _ in range(30):
                code = store.access.codes.issue(600)
                for racer in racers:
                    racer.stdin.write(f"{code}\n")
                secrets = [racer.stdout.readline().strip() for racer in racers]
                assert sorted(secret == "None" for secret in secrets) == [False, True]
                (winner,) = (secret for secret in secrets if secret != "None")
                assert store.access.sessions.check(winner) is not None
        finally:
            for racer in racers:
                racer.stdin.close()
                racer.wait(60)
                racer.stdout.close()


def test_a_session_that_is_used_goes_on_and_one_that_is_not_ends(store: Store) -> None:
    secret = store.access.codes.redeem(store.access.codes.issue(60))
    assert secret is not None
    fresh = store.access.sessions.check(secret)
    assert fresh is not None
    assert abs(fresh.expires_at - datetime.now(UTC) - timedelta(seconds=SESSION_SECONDS)) < timedelta(minutes=5)
    # Within the hour nothing is written ...
    execute(store, "UPDATE sessions SET expires_at = expires_at - 1800")
    for _ in range(2):
        used = store.access.sessions.check(secret)
        assert used is not None and fresh.expires_at - used.expires_at >= timedelta(seconds=1799)
    # ... after it the end moves away ...
    execute(store, "UPDATE sessions SET expires_at = expires_at - 7200")
    store.access.sessions.check(secret)
    again = store.access.sessions.check(secret)
    assert again is not None and again.expires_at >= fresh.expires_at - timedelta(seconds=1)
    # ... and after a fortnight of silence it has come.
    execute(store, f"UPDATE sessions SET expires_at = expires_at - {SESSION_SECONDS + 1}")
    assert store.access.sessions.check(secret) is None


def test_sweeping_forgets_what_is_over(store: Store) -> None:
    secret = store.access.codes.redeem(store.access.codes.issue(60))
    gone = store.access.codes.redeem(store.access.codes.issue(60))
    assert secret is not None and gone is not None
    execute(store, f"UPDATE sessions SET expires_at = expires_at - {SESSION_SECONDS + 1}")
    kept, code = store.access.codes.redeem(store.access.codes.issue(60)), store.access.codes.issue(60)
    store.access.codes.issue(0)
    assert kept is not None
    assert store.access.sweep() == 3
    assert store.access.sweep() == 0
    assert store.access.sessions.check(kept) is not None and store.access.codes.redeem(code) is not None
