"""Opening a database: first use, migrations, and every way in which the URL or the file can be wrong."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from db_values import good, new_job, put
from sqlalchemy import create_engine, text

from db import migrate
from db.migrate import VERSION_TABLE
from db.schema import metadata
from db.store import Store, default_url
from db.urls import parse_url
from tuner.errors import UserError

ROOT = Path(__file__).parents[3]


def refused(url: str) -> UserError:
    with pytest.raises(UserError) as caught:
        Store.open(url).close()
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_migrations_lead_to_the_tables_of_the_schema(store: Store) -> None:
    with store.database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_the_migrations_make_the_same_constraints_as_the_schema(tmp_path: Path) -> None:
    """Alembic's comparison sees no CHECK constraints; SQLite keeps the text of all of them."""
    Store.open(f"sqlite:///{tmp_path}/migrated.db").close()
    direct = create_engine(f"sqlite:///{tmp_path}/direct.db")
    metadata.create_all(direct)
    direct.dispose()

    def constraints(name: str) -> set[str]:
        with sqlite3.connect(tmp_path / name) as connection:
            tables = connection.execute(
                "SELECT sql FROM sqlite_master WHERE type = 'table' AND name != ?", [VERSION_TABLE]
            )
            return {constraint for (sql,) in tables if sql for constraint in _constraints(sql)}

    assert constraints("migrated.db") == constraints("direct.db")


def _constraints(sql: str) -> Iterator[str]:
    """Every "CONSTRAINT name ..." of a CREATE TABLE, be it of the table or of a column that was added later."""
    for start in (match.start() for match in re.finditer(r"\bCONSTRAINT\b", sql)):
        depth = 0
        for end in range(start, len(sql)):
            depth += (sql[end] == "(") - (sql[end] == ")")
            if depth < 0 or (depth == 0 and sql[end] in ",\n"):
                yield sql[start:end].strip()
                break


def test_opening_again_finds_what_was_stored(url: str) -> None:
    with Store.open(url) as store:
        job = new_job(store)
        put(store, job, good(1, 1.0))
    with Store.open(url) as store:
        assert len(store.trials.page(job)) == 1


def test_many_processes_may_open_a_new_database_at_once(url: str) -> None:
    program = "import sys; from db.store import Store; sys.stdin.read(); Store.open(sys.argv[1]).close()"
    openers = [
        subprocess.Popen([sys.executable, "-c", program, url], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for opener in openers:  # all have loaded or are loading: the closed input is the starting gun
        assert opener.stdin is not None
        opener.stdin.close()
        opener.stdin = None
    complaints = [opener.communicate(timeout=120)[1].decode() for opener in openers]
    assert [opener.returncode for opener in openers] == [0] * 4, complaints
    with Store.open(url) as store:
        new_job(store)


def test_a_database_that_another_process_made_meanwhile_is_ours(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for its version it was empty, asked for its tables it is not."""
    Store.open(url).close()
    real, answers = migrate._version, [None]
    monkeypatch.setattr(migrate, "_version", lambda c: answers.pop() if answers else real(c))
    Store.open(url).close()
    assert not answers


def test_a_sqlite_file_is_set_up_for_several_processes(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/x.db") as store, store.database.read() as connection:
        pragmas = {name: connection.execute(text(f"PRAGMA {name}")).scalar() for name in (
            "journal_mode", "synchronous", "foreign_keys", "busy_timeout")}  # fmt: skip
    assert pragmas == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 30_000}


def test_a_newer_database_is_refused(url: str) -> None:
    with Store.open(url) as store, store.database.write() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    error = refused(url)
    assert error.code == "newer-database" and "9999" in str(error)


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE trials (x INTEGER)")
    connection.close()
    before = file.read_bytes()
    assert refused(f"sqlite:///{file}").code == "foreign-database"
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"no database at all " * 1000, b"SQLite format 3\0" + b"\xff" * 8192])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.db"
    file.write_bytes(content)
    error = refused(f"sqlite:///{file}")
    assert error.code == "bad-database" and str(file) in str(error)
    assert file.read_bytes() == content


def test_a_truncated_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    with Store.open(f"sqlite:///{file}") as store:
        put(store, new_job(store), *(good(number, 1.0) for number in range(100)))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    with pytest.raises(UserError) as caught, Store.open(f"sqlite:///{file}") as store:
        store.trials.samples("x", "y")
        store.records.search()
        store.jobs.list()
    assert caught.value.code == "bad-database"


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    assert refused(f"sqlite:///{tmp_path}").code == "bad-database"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert refused(f"sqlite:///{tmp_path}/file/sub/x.db").code == "bad-database"


@pytest.mark.parametrize(
    "url",
    ["", "fusetune.db", "mysql://host/x", "sqlite://", "sqlite:///:memory:", "sqlite://host/x.db",
     "sqlite:///x.db?mode=ro", "postgresql+nonesuch://x/y", "postgresql://h:port/x"],
)  # fmt: skip
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    error = refused(url)
    assert error.code == "bad-database-url" and "sqlite:///" in str(error)


def test_an_unreachable_server_is_reported_without_the_password() -> None:
    pytest.importorskip("psycopg")
    error = refused("postgresql://me:secret@127.0.0.1:1/x")
    assert error.code == "database-unreachable"
    assert "secret" not in str(error) and "127.0.0.1" in str(error)


def test_all_spellings_of_postgresql_mean_psycopg_3() -> None:
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        assert parse_url(f"{scheme}://me@host/x").drivername == "postgresql+psycopg"


def test_the_default_lies_in_the_users_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    Store.open(default_url()).close()
    assert (tmp_path / "data" / "fusetune" / "fusetune.db").exists()
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_url() == "sqlite:////home/someone/.local/share/fusetune/fusetune.db"
