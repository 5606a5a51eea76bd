"""What all tests share.

With FUSETUNE_FORBID_SKIPS=1 (set by .ci/run) a skipped test is a failure, GPU tests excepted: a skip is a convenience
on a developer's machine; where everything can be installed it would only hide a broken set-up.

Tests that take ``store`` or ``url`` run on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from itertools import count
from pathlib import Path

import pytest

from db.store import Store

# Started in the background, a shell has us ignore Ctrl-C, and whatever we start as well; tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)

FORBID_SKIPS = os.environ.get("FUSETUNE_FORBID_SKIPS") == "1"
_numbers = count()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # An expected failure reports itself as skipped too, and is none.
    if FORBID_SKIPS and report.skipped and not hasattr(report, "wasxfail") and not item.get_closest_marker("gpu"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, which FUSETUNE_FORBID_SKIPS=1 forbids: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole module that skips itself (``importorskip``) never gets as far as a test report."""
    report = yield
    if FORBID_SKIPS and report.skipped:
        report.outcome = "failed"
        report.longrepr = (
            f"{collector.nodeid}: skipped, which FUSETUNE_FORBID_SKIPS=1 forbids: {_reason(report.longrepr)}"
        )
    return report


def _reason(longrepr: object) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A throw-away PostgreSQL server from the Debian package; gives its socket folder."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not homes:
        pytest.skip("PostgreSQL is missing; install it with: apt-get install postgresql")
    bin = homes[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="fusetune-pg-", dir="/tmp"))
    # PostgreSQL refuses to run as root, and its user cannot enter pytest's private folders.
    owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}

    def call(*command: str) -> None:
        # Into a file: the server inherits it, and a pipe would stay open for as long as the server lives.
        with (folder / "log").open("a") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            done = subprocess.run(command, cwd=folder, timeout=120, check=False, **streams, **identity)
        assert done.returncode == 0, (folder / "log").read_text()

    data = str(folder / "data")
    try:
        call(str(bin / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c timezone=Asia/Tokyo"
        call(str(bin / "pg_ctl"), "-D", data, "-o", options, "-l", str(folder / "server"), "-w", "start")
        yield str(folder)
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            call(str(bin / "pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database that nobody used yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/new/fusetune.db"
        return
    folder = request.getfixturevalue("postgres_server")
    psycopg = pytest.importorskip("psycopg")
    name = f"test_{next(_numbers)}"
    with psycopg.connect(f"host={folder} user=postgres dbname=postgres", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield f"postgresql://postgres@/{name}?host={folder}"
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened
